//go:build unix && !linux

package keys

// publishNew gives the file temp the name path, which must be free.
func publishNew(temp, path string) error { return linkNew(temp, path) }
