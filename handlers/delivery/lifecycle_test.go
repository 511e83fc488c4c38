package delivery

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
)

func TestAHandlerComesChangesAndGoesWithItsSubscription(t *testing.T) {
	t.Parallel()
	sender := &sent{Sender: answers(204)}
	bubble(t, sender, func(t *testing.T, s *store, p *Pusher, _ func()) {
		s.publish("a", messages("first", 1)...)
		s.put("a", hook(nil))
		after(time.Second)
		require.Equal(t, []string{"first0"}, sender.ids())
		require.Equal(t, "https://example.com/hook", sender.requests[0].URL)
		require.Equal(t, []commands.Outcome{{AckToken: "1", OK: true, Reason: "webhook", StatusCode: 204}}, s.settled())
		require.Len(t, p.Status(), 1)
		require.Equal(t, StateActive, p.Status()[0].State)
		require.EqualValues(t, 1, p.Status()[0].Delivered)

		// It changes.
		s.put("a", map[string]any{"url": "https://example.com/other"})
		after(time.Second)
		s.publish("a", messages("second", 1)...)
		after(time.Second)
		require.Equal(t, []string{"first0", "second0"}, sender.ids())
		require.Equal(t, "https://example.com/other", sender.requests[1].URL)

		// It is paused, and the Router outlives its last handler.
		s.put("a", hook(nil), withStatus(commands.StatusPaused))
		after(time.Second)
		s.publish("a", messages("third", 1)...)
		after(time.Minute)
		require.Equal(t, 2, sender.count())
		require.Empty(t, p.Status())
		require.False(t, p.router.IsClosed())
		require.Len(t, p.router.Handlers(), 1, "the keeper alone")

		// It is resumed, then deleted, while another one comes.
		s.put("a", hook(nil))
		after(time.Second)
		require.Equal(t, "third0", sender.ids()[2])
		s.remove("a")
		s.put("b", hook(nil))
		s.publish("b", messages("fourth", 1)...)
		after(time.Second)
		require.Equal(t, "fourth0", sender.ids()[3])
		require.Len(t, p.Status(), 1)
		require.Equal(t, "b", p.Status()[0].SubscriptionID)
		require.Len(t, p.router.Handlers(), 2)
	})
}

func TestOtherSubscriptionsHaveNoHandler(t *testing.T) {
	t.Parallel()
	bubble(t, answers(200), func(t *testing.T, s *store, p *Pusher, _ func()) {
		s.put("consumer", hook(nil), func(s *commands.Subscription) { s.Config.SubscriptionType = "consumer" })
		s.put("paused", hook(nil), withStatus(commands.StatusPaused))
		s.put("stopped", hook(nil), withStatus(commands.StatusStopped))
		s.put("unreadable", map[string]any{"url": 7})
		after(time.Second)
		require.Empty(t, p.Status())
		require.Zero(t, s.asked("paused")+s.asked("stopped")+s.asked("consumer")+s.asked("unreadable"))
	})
}

func TestAHandlerThatDiesIsStartedAgain(t *testing.T) {
	t.Parallel()
	sender := &sent{Sender: answers(200)}
	bubble(t, sender, func(t *testing.T, s *store, p *Pusher, _ func()) {
		s.do(func() { s.panics = true })
		s.put("a", hook(nil))
		s.publish("a", messages("m", 1)...)
		synctest.Wait()
		require.Zero(t, sender.count())
		after(2 * time.Second)
		require.Equal(t, 1, sender.count())
		require.Len(t, p.Status(), 1)
	})
}

func TestWhereTheStoreIsAwayHandlersStay(t *testing.T) {
	t.Parallel()
	sender := &sent{Sender: answers(200)}
	bubble(t, sender, func(t *testing.T, s *store, p *Pusher, _ func()) {
		s.put("a", hook(nil))
		after(time.Second)
		takes := s.asked("a")
		s.do(func() { s.away = true; s.tell() })
		after(time.Minute)
		require.Len(t, p.Status(), 1)
		require.Equal(t, StateActive, p.Status()[0].State)
		require.Contains(t, p.Status()[0].LastError, "the store is away")
		// It is asked with a backoff.
		require.Less(t, s.asked("a")-takes, 40)
		s.do(func() { s.away = false })
		s.publish("a", messages("m", 1)...)
		after(6 * time.Second)
		require.Equal(t, 1, sender.count())
	})
}

func TestAChangeThatNobodyToldOfIsSeen(t *testing.T) {
	t.Parallel()
	sender := &sent{Sender: answers(200)}
	bubble(t, sender, func(t *testing.T, s *store, p *Pusher, _ func()) {
		p.cfg.Changed = func() <-chan struct{} { return nil }
		s.put("first", hook(nil)) // the look that this causes asks for the next change in vain
		after(time.Second)
		s.put("a", hook(nil))
		s.publish("a", messages("m", 1)...)
		after(recheck + time.Second)
		require.Equal(t, 1, sender.count())
	})
}

func TestWhatIsNeeded(t *testing.T) {
	t.Parallel()
	whole := newStore().config(answers(200))
	for name, spoil := range map[string]func(*Config){
		"commands":    func(c *Config) { c.Commands = nil },
		"list":        func(c *Config) { c.List = nil },
		"changed":     func(c *Config) { c.Changed = nil },
		"sender":      func(c *Config) { c.Sender = nil },
		"logger":      func(c *Config) { c.Logger = nil },
		"concurrency": func(c *Config) { c.Concurrency = 0 },
		"timeout":     func(c *Config) { c.Timeout = 0 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := whole
			spoil(&c)
			_, err := New(c)
			require.Error(t, err)
		})
	}
}
