package dsn

import (
	"regexp"
	"slices"
	"strings"
)

// Hidden is shown in place of a password.
const Hidden = "xxxxx"

var (
	secrets = []*regexp.Regexp{
		regexp.MustCompile(`(://[^:/@\s]*:)[^\s]*(@)`),
		regexp.MustCompile(`(?i)(password\s*=\s*)(?:'(?:[^'\\]|\\.)*'|[^\s&]*)`),
	}
	quoted     = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)
	connection = regexp.MustCompile(`(?i)://|@|password`)
)

// Redact takes out of an error of the driver what looks like the password of a
// connection string, and c's own. It is the second line: nothing is meant to print
// one. c may be nil.
func (c *Config) Redact(text string) string {
	for _, secret := range secrets {
		text = secret.ReplaceAllString(text, "${1}"+Hidden+"${2}")
	}
	if c == nil || c.Password == "" || slices.Contains([]string{c.User, c.Database, c.Host}, c.Password) {
		return text // it has none that can be told from the other names
	}
	return strings.ReplaceAll(text, c.Password, Hidden)
}

// RedactArguments takes out of text each quoted word that may be a connection
// string: somebody may have put it in the wrong place.
func RedactArguments(text string) string {
	return quoted.ReplaceAllStringFunc(text, func(word string) string {
		if connection.MatchString(word) {
			return `"` + Hidden + `"`
		}
		return word
	})
}
