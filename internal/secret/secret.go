// Package secret keeps passwords out of error texts. A driver that cannot parse
// its connection string repeats it: lib/pq wholly, and pgx all but the password,
// as long as it recognizes that.
package secret

import (
	"errors"
	"net/url"
	"regexp"
	"strings"
)

// Hide returns err, the error of a connect, or an error around it that does not
// show the connection string if err does. errors.Is and errors.As still find
// err.
func Hide(err error) error {
	if err == nil {
		return nil
	}
	var badURL *url.Error
	text := err.Error()
	switch {
	case errors.As(err, &badURL): // what is wrong with it is told by parts of it
		return &hidden{"the connection string is no valid URL", err}
	case strings.Contains(text, `missing "=" after `):
		return &hidden{"the connection string is neither a URL nor a list of key=value", err}
	case quoted.MatchString(text):
		return &hidden{quoted.ReplaceAllString(text, "cannot parse the connection string"), err}
	}
	return err
}

// quoted is greedy: a password may have backquotes in it.
var quoted = regexp.MustCompile("(?s)cannot parse `.*`")

type hidden struct {
	text string
	err  error
}

func (h *hidden) Error() string { return h.text }
func (h *hidden) Unwrap() error { return h.err }
