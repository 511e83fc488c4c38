package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/infra/postgres"
	"github.com/tallymq/tallymq/infra/redis"
	"github.com/tallymq/tallymq/projections"
)

// verifyBatch is how many events verify folds at once. It differs from the
// projector's batches on purpose: the size must make no difference.
const verifyBatch = 5000

func verifyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "verify",
		Short: "Fold the event history of DATABASE_URL again and compare every row of the read tables",
		Long: `Folds the whole event history into temporary tables and compares them with the read
tables, row by row, on one snapshot: the service may go on meanwhile. What was changed,
deleted, doubled or added is named, and so is what is wrong with the history itself
(doubled or moved events) and with checkpoints that do not stand at its end. With REDIS_URL it
also counts every consumer group's messages in both stores at the same position of the
log. History itself is held against its seals (see prove): an event that was changed,
taken away or put there is named. Exits with 1 where anything differs.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			pool, err := openDatabase(cmd.Context(), slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)))
			if err != nil {
				return err
			}
			defer pool.Close()
			return runVerify(cmd, pool)
		},
	}
}

func runVerify(cmd *cobra.Command, pool *pgxpool.Pool) error {
	ctx := cmd.Context()
	o, err := verifyOptions(cmd, pool)
	if err != nil {
		return err
	}
	bar := progress(cmd.ErrOrStderr(), -1, "folding", "events")
	o.Progress = func(n int64) { _ = bar.Set64(n) }
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	own := conn.Hijack()
	defer func() { _ = own.Close(ctx) }()
	report, err := projections.Verify(ctx, own, o)
	_ = bar.Clear()
	if err != nil {
		return err //nolint:wrapcheck // says what it does
	}
	printReport(cmd.OutOrStdout(), report)
	isSealed, err := verifySeals(cmd, pool, o)
	if err != nil {
		return err
	}
	isBalanced, err := verifyWithRedis(cmd, pool, o.Shards)
	if err != nil {
		return err
	}
	if !report.OK() || !isSealed || !isBalanced {
		return exitError{status: 1}
	}
	return nil
}

// verifyWithRedis holds the ledger against the Redis that REDIS_URL names.
func verifyWithRedis(cmd *cobra.Command, pool *pgxpool.Pool, shards int) (isBalanced bool, err error) {
	cfg, err := loadConfig(false)
	if err != nil {
		return false, err
	}
	if cfg.RedisURL == "" {
		_, _ = fmt.Fprintf(cmd.OutOrStdout(), "%-22s not checked: REDIS_URL is not set\n", "ledger")
		return true, nil
	}
	client, err := redis.Open(cfg.RedisURL)
	if err != nil {
		return false, err //nolint:wrapcheck // names the variable
	}
	defer func() { _ = client.Close() }()
	lost, err := verifyLog(cmd.Context(), pool, client, cfg.RedisKeyPrefix, shards)
	if err != nil {
		return false, fmt.Errorf("verify: %w", err)
	}
	if lost != "" {
		_, _ = fmt.Fprintf(cmd.OutOrStdout(), "%-22s LOST: %s. A service that runs puts it back by itself; so does `tallymq repair`.\n", "log (Redis)", lost)
		return false, nil
	}
	log := redis.New(redis.Config{
		Client: client, Prefix: cfg.RedisKeyPrefix, Shards: shards, Logger: slog.New(slog.DiscardHandler),
		DecodeTopic: commands.DecodeTopic, DecodeSubscription: commands.DecodeSubscription, DecodeSchedule: commands.DecodeSchedule,
	})
	defer log.Close()
	groups, wrong, err := verifyLedgers(cmd.Context(), pool, log)
	isCounted := !errors.Is(err, errNotYet)
	switch {
	case !isCounted:
		_, _ = fmt.Fprintf(cmd.OutOrStdout(), "%-22s NOT COUNTED: %v\n", "ledger", err)
	case err != nil:
		return false, fmt.Errorf("verify: %w", err)
	default:
		printLedgers(cmd.OutOrStdout(), groups, wrong)
	}
	bar := progress(cmd.ErrOrStderr(), -1, "folding", "events")
	held, err := verifyDelivery(cmd.Context(), pool, log, shards, func(n int64) { _ = bar.Set64(n) })
	_ = bar.Clear()
	if err != nil {
		return false, fmt.Errorf("verify: %w", err)
	}
	agrees := printDelivery(cmd.OutOrStdout(), held)
	return isCounted && len(wrong) == 0 && agrees, nil
}

func verifyOptions(cmd *cobra.Command, pool *pgxpool.Pool) (projections.VerifyOptions, error) {
	o := projections.VerifyOptions{
		Batch: verifyBatch, HorizonSetting: postgres.HorizonSetting, MessageIDBound: postgres.MessageIDBound,
	}
	shards, err := postgres.Setting(cmd.Context(), pool, "shards")
	if err != nil {
		return o, err //nolint:wrapcheck // says what it does
	}
	if shards == "" {
		return o, errors.New("verify: no service has used this database yet")
	}
	if o.Shards, err = strconv.Atoi(shards); err != nil {
		return o, fmt.Errorf("verify: setting shards: %w", err)
	}
	return o, nil
}

func printReport(w io.Writer, r projections.Report) {
	for _, fault := range r.Faults {
		_, _ = fmt.Fprintf(w, "FAULT: %s\n", fault)
	}
	if len(r.Tables) == 0 {
		_, _ = fmt.Fprintln(w, "The history itself is not whole: the read tables were not compared with its fold.")
		return
	}
	for _, t := range r.Tables {
		verdict := "equal"
		if t.Missing+t.Unexpected > 0 {
			verdict = fmt.Sprintf("DIFFERENT: %d changed, %d deleted, %d added or doubled", t.Changed, t.Missing-t.Changed, t.Unexpected-t.Changed)
		}
		_, _ = fmt.Fprintf(w, "%-22s %9d rows  %s\n", t.Table, t.Rows, verdict)
		for _, example := range t.Examples {
			_, _ = fmt.Fprintf(w, "    %s\n", example)
		}
	}
	verdict := "The read tables equal the fold of the history."
	if r.Differs() {
		verdict = "The read tables do NOT equal the fold of the history."
	}
	_, _ = fmt.Fprintf(w, "%d events folded. %s\n", r.Events, verdict)
}
