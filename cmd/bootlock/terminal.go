package main

import (
	"os"
	"strings"
	"unicode"

	"golang.org/x/term"
)

func isTerminal(stream any) bool {
	file, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// visible is text without what could steer a terminal. Errors of the server have
// names in them, and texts, that come from others.
func visible(text string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && !unicode.IsPrint(r) {
			return '_'
		}
		return r
	}, text)
}
