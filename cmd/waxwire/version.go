package main

import (
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"waxwire.example/waxwire/cipher"
	"waxwire.example/waxwire/keys/erase"
)

type versionInfo struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Go       string `json:"go"`
	System   string `json:"system"`
	Protocol string `json:"protocol"`
	Erasure  string `json:"erasure"` // how secrets are kept out of what is left in memory
	FastAES  bool   `json:"fast_aes"`
}

// readVersion knows builds by "go build" and by "go install" alike.
func readVersion() versionInfo {
	v := versionInfo{
		Version: "devel", Go: runtime.Version(), System: runtime.GOOS + "/" + runtime.GOARCH,
		Protocol: "waxwire/1", Erasure: erase.Guard(), FastAES: cipher.HasFastAES(),
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if m := strings.TrimPrefix(info.Main.Version, "v"); m != "" && m != "(devel)" {
		v.Version = m
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			v.Revision = s.Value
		}
	}
	return v
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  needs(),
		RunE: func(*cobra.Command, []string) error {
			v := readVersion()
			if a.json {
				return a.ui.result(v)
			}
			aes := "AES in hardware"
			if !v.FastAES {
				aes = "no AES in hardware"
			}
			return a.ui.printf("waxwire %s (%s, %s, %s, erasure by %s, %s)\n", v.Version, v.Protocol, v.System, v.Go, v.Erasure, aes)
		},
	}
}
