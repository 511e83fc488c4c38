package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/tallymq/tallymq/infra/config"
	"github.com/tallymq/tallymq/infra/keyring"
	"github.com/tallymq/tallymq/infra/postgres"
	"github.com/tallymq/tallymq/infra/redis"
)

func destroyKeysCommand() *cobra.Command {
	var tenant string
	var isSure bool
	cmd := &cobra.Command{
		Use:   "destroy-keys --tenant <id> --yes",
		Short: "Destroy a tenant's encryption keys: its stored payloads can never be read again",
		Long: `Destroys all keys of a tenant in DATABASE_URL. Every payload that was sealed with them
(ENCRYPTION_KEYS) is lost for good: it is shown as null, and what is still to be delivered
becomes a dead letter for being unreadable. History, counts and the ledger stay as they are.
The tenant's next message makes a new key. With REDIS_URL running instances forget the keys
at once, without it within ` + keyring.KeepFor.String() + `; one that cannot reach Postgres keeps them for ` + keyring.KeepAway.String() + ` at
most. Copies in backups and in Postgres' write-ahead log are not reached.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			id, err := uuid.Parse(tenant)
			if err != nil || id.String() != tenant {
				return fmt.Errorf("--tenant: %q is no UUID in lower case", tenant)
			}
			if !isSure {
				return errors.New("--yes: is needed, as this cannot be undone")
			}
			cfg, err := loadConfig(false)
			if err != nil {
				return err
			}
			pool, err := openDatabase(cmd.Context(), slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)))
			if err != nil {
				return err
			}
			defer pool.Close()
			return destroyKeys(cmd.Context(), cmd.OutOrStdout(), pool, cfg, tenant)
		},
	}
	cmd.Flags().StringVar(&tenant, "tenant", "", "the tenant's id")
	cmd.Flags().BoolVar(&isSure, "yes", false, "it cannot be undone, and is meant")
	return cmd
}

// destroyKeys destroys a tenant's keys and tells running instances.
func destroyKeys(ctx context.Context, w io.Writer, pool *pgxpool.Pool, cfg config.Config, tenantID string) error {
	n, err := postgres.NewTenantKeys(pool).Destroy(ctx, tenantID, time.Now())
	if n > 0 || err == nil {
		_, _ = fmt.Fprintf(w, "%d keys of tenant %s are destroyed.\n", n, tenantID)
	}
	if err != nil {
		return err //nolint:wrapcheck // says what it does
	}
	if cfg.RedisURL == "" {
		_, _ = fmt.Fprintf(w, "REDIS_URL is not set: running instances forget them within %s.\n", keyring.KeepFor)
		return nil
	}
	client, err := redis.Open(cfg.RedisURL)
	if err != nil {
		return err //nolint:wrapcheck // names the variable
	}
	defer func() { _ = client.Close() }()
	if err := redis.AnnounceKeysDestroyed(ctx, client, cfg.RedisKeyPrefix, tenantID); err != nil {
		return fmt.Errorf("running instances forget the keys within %s: %w", keyring.KeepFor, err)
	}
	return nil
}

// forgetKeys has a tenant's keys looked up again: they were destroyed.
func (s *service) forgetKeys(tenantID string) {
	if s.keyring != nil {
		s.keyring.Forget(tenantID)
		s.logger.Info("the keys of a tenant were destroyed", "tenant", tenantID)
	}
}
