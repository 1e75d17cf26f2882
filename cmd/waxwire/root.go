package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// An app is one run of the program: where it speaks, and what the flags that every command has say.
type app struct {
	ui    *ui
	log   *slog.Logger
	level slog.LevelVar

	homeFlag   string
	json       bool
	colorFlag  string
	quiet      bool
	verbose    int
	logFormat  string
	noInput    bool
	coreDumps  bool
	passphrase string // a file
}

// run is the program without its exit.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{ui: &ui{in: stdin, out: stdout, err: stderr}}
	root := a.rootCommand()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.Execute()
	asJSON := a.json || slices.Contains(args, "--json") // a mistake may stand before the flag was read
	return report(stderr, err, asJSON, a.verbose > 0)
}

const welcome = `waxwire carries TCP ports and unix sockets between two hosts through a WebSocket,
sealed end to end inside it.

  waxwire demo                          see it work, on this host, in a few seconds
On the host that has an address:
  waxwire server                        take sealed connections; says what to do next
  waxwire invite NAME --url URL         let another host in; prints what to run there:
On the other host:
  waxwire join INVITE                   enrol there, and save the server
  waxwire client SERVER -L 8080:localhost:80

"waxwire --help" lists all commands, "waxwire COMMAND --help" has examples.
`

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:               "waxwire",
		Short:             "Carry TCP ports and unix sockets through a WebSocket, sealed end to end",
		Version:           readVersion().Version,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		Args:              unknownCommand,
		RunE: func(cmd *cobra.Command, args []string) error {
			_, err := io.WriteString(cmd.OutOrStdout(), welcome)
			return err
		},
		PersistentPreRunE: func(*cobra.Command, []string) error { return a.setUp() },
	}
	root.SetVersionTemplate("waxwire {{.Version}}\n")
	root.SetHelpTemplate(helpTemplate)
	root.SetUsageTemplate(usageTemplate)
	root.SetFlagErrorFunc(flagError)
	cobra.EnableCommandSorting = false

	f := root.PersistentFlags()
	f.SortFlags = false
	f.StringVar(&a.homeFlag, "home", "", "keep all files in `DIR` (or WAXWIRE_HOME)")
	f.BoolVar(&a.json, "json", false, "results, events and errors as JSON")
	f.BoolVarP(&a.quiet, "quiet", "q", false, "say nothing but warnings and errors")
	f.CountVarP(&a.verbose, "verbose", "v", "say more; twice: everything")
	f.StringVar(&a.colorFlag, "color", "auto", "auto, always or never")
	f.StringVar(&a.logFormat, "log-format", "auto", "screen, text or json; auto: screen on a terminal, else text")
	f.BoolVar(&a.noInput, "no-input", false, "never ask, fail instead")
	f.StringVar(&a.passphrase, "passphrase-file", "", "read the passphrase of the identity from `FILE` (or WAXWIRE_PASSPHRASE_FILE)")
	f.BoolVar(&a.coreDumps, "core-dumps", false, "allow core dumps and debuggers, which can show keys")

	root.AddCommand(
		a.demoCommand(), a.serverCommand(), a.inviteCommand(), a.joinCommand(), a.clientCommand(), a.pipeCommand(),
		a.statusCommand(), a.pingCommand(), a.reloadCommand(), a.keyCommand(), a.peersCommand(), a.benchCommand(),
		a.completionCommand(), a.versionCommand(),
	)
	return root
}

// setUp runs when all flags are read and before the command does.
func (a *app) setUp() error {
	harden(a.coreDumps)
	if !slices.Contains([]string{"auto", "always", "never"}, a.colorFlag) {
		return usagef("--color %s: the choice is auto, always or never", visible(a.colorFlag))
	}
	u := a.ui
	u.terminal = isTerminal(u.err)
	u.color = wantsColor(a.colorFlag, u.terminal, os.Getenv)
	u.unicode = hasUnicode(os.Getenv)
	u.quiet, u.json = a.quiet, a.json

	switch a.logFormat {
	case "auto":
		if a.logFormat = "text"; u.terminal {
			a.logFormat = "screen"
		}
	case "screen", "text", "json":
	default:
		return usagef("--log-format %s: the choice is auto, screen, text or json", visible(a.logFormat))
	}
	switch {
	case a.quiet:
		a.level.Set(slog.LevelWarn)
	case a.verbose > 1:
		a.level.Set(slog.LevelDebug)
	}
	a.log = newLogger(lineWriter{u}, a.logFormat, &a.level, u.color, isJournal(u.err, os.Getenv("JOURNAL_STREAM")))
	return nil
}

// screen says whether the user is told things as a person is, or as a log is.
func (a *app) screen() bool { return a.logFormat == "screen" }

func (a *app) home() (home, error) { return findHome(a.homeFlag, os.Getenv) }

// A lineWriter lets the log and the screen take turns on one stream.
type lineWriter struct{ u *ui }

func (w lineWriter) Write(p []byte) (int, error) {
	w.u.write(strings.TrimSuffix(string(p), "\n"))
	return len(p), nil
}

const usageTemplate = `{{if .HasExample}}Examples:
{{.Example}}

{{end}}Usage:
  {{.UseLine}}{{if .HasAvailableSubCommands}}

Commands:{{range .Commands}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding}}  {{.Short}}{{end}}{{end}}{{end}}{{if .HasAvailableLocalFlags}}

Flags:
{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}{{if .HasAvailableInheritedFlags}}

Flags of every command:
{{.InheritedFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}
`

const helpTemplate = `{{with (or .Long .Short)}}{{. | trimTrailingWhitespaces}}

{{end}}{{.UsageString}}`

// unknownCommand is the Args of commands that only have commands below them.
func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	words := "command"
	if cmd.HasParent() {
		words = fmt.Sprintf("%q command", cmd.Name())
	}
	text := fmt.Sprintf("unknown %s \"%s\".", words, visible(args[0]))
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	if best := closest(args[0], names); best != "" {
		return fail(codeUnknownCommand, nil, fmt.Sprintf("%s Did you mean %q?", text, best))
	}
	return fail(codeUnknownCommand, nil, fmt.Sprintf("%s \"%s --help\" lists them.", text, cmd.CommandPath()))
}

// group is the RunE of such commands: without a word they show what there is.
func group(cmd *cobra.Command, _ []string) error { return cmd.Help() }

// flagError says what is wrong with a flag, with a suggestion where there is a flag like it.
func flagError(cmd *cobra.Command, err error) error {
	where := ""
	if cmd.HasParent() {
		where = fmt.Sprintf(" for %q", strings.TrimPrefix(cmd.CommandPath(), cmd.Root().Name()+" "))
	}
	var (
		unknown *pflag.NotExistError
		value   *pflag.ValueRequiredError
		invalid *pflag.InvalidValueError
	)
	switch {
	case errors.As(err, &unknown) && unknown.GetSpecifiedShortnames() != "":
		return fail(codeUnknownFlag, err, fmt.Sprintf("unknown flag -%s%s.", visible(unknown.GetSpecifiedShortnames()), where),
			fmt.Sprintf("%q lists them.", cmd.CommandPath()+" --help"))
	case errors.As(err, &unknown):
		text := fmt.Sprintf("unknown flag --%s%s.", visible(unknown.GetSpecifiedName()), where)
		var names []string
		add := func(f *pflag.Flag) {
			if !f.Hidden {
				names = append(names, f.Name)
			}
		}
		cmd.Flags().VisitAll(add)
		cmd.InheritedFlags().VisitAll(add)
		if best := closest(unknown.GetSpecifiedName(), names); best != "" {
			return fail(codeUnknownFlag, err, text+" Did you mean --"+best+"?")
		}
		return fail(codeUnknownFlag, err, text, fmt.Sprintf("%q lists them.", cmd.CommandPath()+" --help"))
	case errors.As(err, &value):
		return fail(codeUsage, err, fmt.Sprintf("the flag --%s needs a value", value.GetFlag().Name))
	case errors.As(err, &invalid):
		return fail(codeUsage, err, fmt.Sprintf("--%s %s: that is not a %s", invalid.GetFlag().Name,
			visible(invalid.GetValue()), kindOf(invalid.GetFlag())))
	}
	return fail(codeUsage, err, visible(err.Error()))
}

func kindOf(f *pflag.Flag) string {
	switch t := f.Value.Type(); t {
	case "duration":
		return "duration (for example 30s)"
	case "bool":
		return "yes or no (true, false)"
	default:
		return t
	}
}

// needs is the Args of commands that take words: the named ones, of the last any number if it ends
// in a +.
func needs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		many := len(names) > 0 && strings.HasSuffix(names[len(names)-1], "+")
		if len(args) == len(names) || many && len(args) > len(names) {
			return nil
		}
		path := strings.TrimPrefix(cmd.CommandPath(), cmd.Root().Name()+" ")
		form := "Form: " + cmd.UseLine()
		if len(args) < len(names) {
			missing := strings.TrimSuffix(names[len(args)], "+")
			return fail(codeUsage, nil, fmt.Sprintf("%q: %s is missing", path, missing), form)
		}
		return fail(codeUsage, nil, fmt.Sprintf("%q: %q is one word too many", path, visible(args[len(names)])), form)
	}
}

// closest returns the name that a mistyped one was probably meant to be, "" if none is near.
func closest(typed string, names []string) string {
	best, least := "", 1+max(1, len(typed)/3)
	for _, name := range names {
		d := distance(strings.ToLower(typed), name)
		if len(typed) > 1 && strings.HasPrefix(name, typed) {
			d = min(d, 1)
		}
		if d < least {
			best, least = name, d
		}
	}
	return best
}

// distance counts the letters to add, drop, change or swap with their neighbour.
func distance(a, b string) int {
	prev2, prev, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(prev[j]+1, row[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], prev2[j-2]+1)
			}
		}
		prev2, prev, row = prev, row, prev2
	}
	return prev[len(b)]
}
