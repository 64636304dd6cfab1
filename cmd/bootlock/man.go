//go:build man

package main

import (
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// The manual pages are made from the help when a release is, by
//
//	go run -tags man . man FOLDER
//
// What makes them is no part of the command that users get.
func init() {
	more = append(more, func(a *app) *cobra.Command {
		return &cobra.Command{
			Use:    "man FOLDER",
			Hidden: true,
			Args:   cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				if err := os.MkdirAll(args[0], 0o755); err != nil {
					return err
				}
				cmd.Root().DisableAutoGenTag = true
				return doc.GenManTree(cmd.Root(), &doc.GenManHeader{Section: "1", Source: "bootlock " + buildVersion()}, args[0])
			},
		}
	})
}
