package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/lmittmann/tint"
)

// newLogger makes the log that the flags ask for: JSON, key=value, or on a terminal coloured lines.
// The journal adds the time by itself, so there it is left out.
func newLogger(w io.Writer, format string, level slog.Leveler, color, journal bool) *slog.Logger {
	clean := func(groups []string, a slog.Attr) slog.Attr {
		if a.Value.Kind() == slog.KindAny {
			if err, ok := a.Value.Any().(error); ok {
				a.Value = slog.StringValue(err.Error())
			}
		}
		if a.Value.Kind() == slog.KindString { // much of it was written by other ends
			a.Value = slog.StringValue(visible(a.Value.String()))
		}
		return a
	}
	switch format {
	case "json":
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: clean}))
	case "screen":
		return slog.New(tint.NewTextHandler(w, &tint.Options{
			Level: level, NoColor: !color, TimeFormat: time.TimeOnly, ReplaceAttr: clean,
		}))
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if journal && len(groups) == 0 && a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return clean(groups, a)
	}}))
}

// isJournal says whether a stream goes to the systemd journal: JOURNAL_STREAM names its device and
// inode, and is inherited by children whose streams go elsewhere.
func isJournal(stream any, env string) bool {
	f, ok := stream.(*os.File)
	if !ok || env == "" {
		return false
	}
	dev, ino, ok := deviceAndInode(f)
	return ok && env == fmt.Sprintf("%d:%d", dev, ino)
}
