package dsn

import (
	"regexp"
	"slices"
)

// Hidden is shown in place of a password.
const Hidden = "xxxxx"

var secrets = []*regexp.Regexp{
	regexp.MustCompile(`(://[^:/@\s]*:)[^\s]*(@)`),
	regexp.MustCompile(`(?i)(password\s*=\s*)(?:'(?:[^'\\]|\\.)*'|[^\s&]*)`),
}

// Redact takes out what looks like the password of a DSN, wherever it comes
// from. It is the second line: nothing is meant to print one.
func Redact(text string) string {
	for _, secret := range secrets {
		text = secret.ReplaceAllString(text, "${1}"+Hidden+"${2}")
	}
	return text
}

// Secret is the password, if it can be told from the other names in c: one that
// is also the user's name would be taken out of every message.
func (c *Config) Secret() string {
	if slices.Contains([]string{c.User, c.Database, c.Host}, c.Password) {
		return ""
	}
	return c.Password
}
