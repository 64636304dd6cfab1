// Package printable makes texts of others fit to be shown: the names of roles,
// databases and programs, and errors of the server, may have in them what steers a
// terminal.
package printable

import (
	"strings"
	"unicode"
)

// Text returns text with instead in place of every rune that is not printable, except
// for those in also.
func Text(text string, instead rune, also string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) && !strings.ContainsRune(also, r) {
			return instead
		}
		return r
	}, text)
}
