package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func (a *app) completionCommand() *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "Print the completion script of a shell: bash, zsh, fish or powershell",
		Example: `  source <(waxwire completion bash)                        # in ~/.bashrc
  waxwire completion zsh > "${fpath[1]}/_waxwire"
  waxwire completion fish > ~/.config/fish/completions/waxwire.fish`,
		Args:                  needs("SHELL"),
		ValidArgs:             shells,
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			root, out := cmd.Root(), cmd.OutOrStdout()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(out, true)
			case "zsh":
				return root.GenZshCompletion(out)
			case "fish":
				return root.GenFishCompletion(out, true)
			case "powershell":
				return root.GenPowerShellCompletionWithDesc(out)
			}
			text := fmt.Sprintf("there is no completion for %q; there is for bash, zsh, fish and powershell.", visible(args[0]))
			if best := closest(args[0], shells); best != "" {
				text += fmt.Sprintf(" Did you mean %q?", best)
			}
			return fail(codeUsage, nil, text)
		},
	}
}

// completePeers offers the names of the peers, for the first word only.
func (a *app) completePeers(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	dir, err := a.openPeers()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []cobra.Completion
	for _, p := range dir.List() {
		names = append(names, cobra.CompletionWithDesc(p.Name, p.Key.Short()))
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
