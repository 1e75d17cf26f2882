//go:build !goexperiment.runtimesecret

package erase_test

const wantGuard = "scrub"
