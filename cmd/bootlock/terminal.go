package main

import (
	"os"

	"golang.org/x/term"

	"github.com/bootlock/bootlock/internal/printable"
)

func isTerminal(stream any) bool {
	file, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// visible is text without what could steer a terminal. Errors of the server have
// names in them, and texts, that come from others.
func visible(text string) string {
	return printable.Text(text, '_', "\n\t")
}
