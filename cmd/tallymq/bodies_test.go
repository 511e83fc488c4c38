package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/handlers/command"
	"github.com/tallymq/tallymq/handlers/web"
)

func TestBodiesUnderWayAreBounded(t *testing.T) {
	t.Parallel()
	entered, leave := make(chan struct{}), make(chan struct{})
	e := echo.New()
	e.Use(boundBodies(1000))
	e.POST("/", func(c echo.Context) error {
		if c.Request().ContentLength == 900 {
			entered <- struct{}{}
			<-leave
		}
		return c.NoContent(http.StatusNoContent)
	})
	e.HTTPErrorHandler = func(err error, c echo.Context) {
		refused, ok := err.(*web.Error) //nolint:errorlint // as the middleware returns it
		require.True(t, ok, err)
		_ = c.NoContent(refused.Status)
	}
	post := func(bytes int, length int64) int {
		req := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(strings.Repeat("x", bytes)))
		req.ContentLength = length
		rec := httptest.NewRecorder()
		e.ServeHTTP(rec, req)
		return rec.Code
	}
	// given one large request under way
	first := make(chan int, 1)
	go func() { first <- post(900, 900) }()
	<-entered
	// then a small one has room, a second large one and one of unknown length have none
	require.Equal(t, http.StatusNoContent, post(100, 100))
	require.Equal(t, http.StatusNoContent, post(0, 0))
	require.Equal(t, http.StatusServiceUnavailable, post(101, 101))
	require.Equal(t, http.StatusServiceUnavailable, post(1, -1))
	// and when it has left, there is room again
	close(leave)
	require.Equal(t, http.StatusNoContent, <-first)
	require.Equal(t, http.StatusNoContent, post(1000, 1000))
	require.Less(t, int64(command.BatchBodyMax), int64(bodyBytesMax), "the largest body has room when nothing else is under way")
}
