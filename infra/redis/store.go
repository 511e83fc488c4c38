package redis

import "errors"

// ErrForeignLog reports a Redis that holds another store's log.
var ErrForeignLog = errors.New("this Redis holds another store's log")
