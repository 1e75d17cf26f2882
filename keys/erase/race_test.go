//go:build race

package erase_test

const raceEnabled = true
