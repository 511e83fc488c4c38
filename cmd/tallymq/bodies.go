package main

import (
	"github.com/labstack/echo/v4"
	"golang.org/x/sync/semaphore"

	"github.com/tallymq/tallymq/handlers/command"
	"github.com/tallymq/tallymq/handlers/web"
)

// bodyBytesMax bounds the bodies of all requests under way: a publish holds its
// payload until it is folded, and while Postgres is away that takes its time.
const bodyBytesMax = 96 << 20

// boundBodies answers 503 to a request whose body has no room beside those under way.
// A body that does not say its length counts as the largest.
func boundBodies(bytesMax int64) echo.MiddlewareFunc {
	room := semaphore.NewWeighted(bytesMax)
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			weight := c.Request().ContentLength
			if weight == 0 {
				return next(c)
			}
			if weight < 0 || weight > command.BatchBodyMax {
				weight = command.BatchBodyMax
			}
			if !room.TryAcquire(weight) {
				return web.Unavailable("too many large requests are under way")
			}
			defer room.Release(weight)
			return next(c)
		}
	}
}
