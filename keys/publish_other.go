//go:build !unix && !windows

package keys

// publishNew: this system has neither hard links nor exclusive renames that could be relied on.
func publishNew(string, string) error { return errNoExclusive }

func isCrossDevice(error) bool { return false }
