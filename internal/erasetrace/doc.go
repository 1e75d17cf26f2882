// Package erasetrace tells a test which secrets a process has made, so that the test can search the
// memory of that process for what is left of them.
//
// All of it exists under the build tag erasetrace only. In every other build [Secret] is empty and
// the two switches are the constant false, so that nothing of it reaches a binary.
//
// It writes to a pipe and has no goroutines.
package erasetrace
