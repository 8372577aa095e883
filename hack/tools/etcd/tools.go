//go:build tools

// Package tools keeps the imports of what hack/tools/build makes of this module.
package tools

import _ "go.etcd.io/etcd/server/v3"
