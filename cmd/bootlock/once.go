package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bootlock/bootlock/schemaguard"
)

// once is what COMMAND does once for all: a name, or the files of a folder.
type once struct{ name, of string }

func (o *once) flags(cmd *cobra.Command, question string) {
	cmd.Flags().StringVar(&o.name, "once", "", "the name of what COMMAND does, once for all; see above")
	cmd.Flags().StringVar(&o.of, "once-of", "", "a folder whose files are what COMMAND does, instead of a name")
	must(cmd.MarkFlagDirname("once-of"))
	cmd.MarkFlagsMutuallyExclusive("once", "once-of", question)
}

// check refuses a name that the library would refuse later on, and finds out that of a
// folder. Without a flag the name is empty.
func (o *once) check(cmd *cobra.Command) (err error) {
	refused := func(r rune) bool { return r < ' ' || r > '~' || strings.ContainsRune(`'\`, r) }
	switch {
	case cmd.Flags().Changed("once-of"):
		defer func() {
			if why := recover(); why != nil {
				err = usage("--once-of %s: it is a folder with files: %s", o.of, strings.TrimPrefix(fmt.Sprint(why), "schemaguard.HashFS: "))
			}
		}()
		o.name = schemaguard.HashFS(os.DirFS(o.of))
	case !cmd.Flags().Changed("once"):
	case o.name == "" || len(o.name) > 255 || strings.ContainsFunc(o.name, refused):
		return usage(`--once is a name: not empty, at most 255 bytes of printable ASCII without ' and \`)
	}
	return nil
}
