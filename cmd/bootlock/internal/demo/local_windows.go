package demo

import (
	"context"
	"errors"
)

func startLocal(context.Context) (*server, error) {
	return nil, errors.New("they are not used on Windows")
}
