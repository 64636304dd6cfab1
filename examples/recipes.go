//go:build recipes

// Package examples keeps the modules that ../docs/go-recipes.md needs.
package examples

import (
	_ "github.com/peterldowns/pgtestdb"
	_ "github.com/testcontainers/testcontainers-go/modules/postgres"
)
