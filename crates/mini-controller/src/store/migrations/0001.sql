-- Times are milliseconds since the Unix epoch.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;

CREATE TABLE apps (
    id              INTEGER PRIMARY KEY,
    name            TEXT NOT NULL UNIQUE,
    created_at      INTEGER NOT NULL,
    desired         TEXT NOT NULL CHECK (desired IN ('run', 'stop', 'destroy')),
    subnet          TEXT NOT NULL UNIQUE,
    address_cursor  INTEGER NOT NULL DEFAULT 0,
    last_release    INTEGER NOT NULL DEFAULT 0,
    -- The release that is or was last live, and the rollout that serves it (none while stopped).
    live_release    INTEGER,
    live_deployment TEXT,
    live_at         INTEGER
) STRICT;

CREATE TABLE domains (
    host   TEXT PRIMARY KEY,
    app_id INTEGER NOT NULL REFERENCES apps (id) ON DELETE CASCADE
) STRICT;

-- Sealed: see the vault.
CREATE TABLE env (
    app_id INTEGER NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    name   TEXT NOT NULL,
    value  BLOB NOT NULL,
    PRIMARY KEY (app_id, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE sources (
    digest     TEXT PRIMARY KEY,
    files      INTEGER NOT NULL,
    bytes      INTEGER NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE releases (
    app_id        INTEGER NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    number        INTEGER NOT NULL,
    created_at    INTEGER NOT NULL,
    description   TEXT NOT NULL,
    spec          TEXT NOT NULL,
    env           BLOB NOT NULL,
    image_name    TEXT,
    source        TEXT,
    deployment_id TEXT NOT NULL,
    created_by    TEXT,
    PRIMARY KEY (app_id, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE deployments (
    id              TEXT PRIMARY KEY,
    app_id          INTEGER NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    kind            TEXT NOT NULL,
    status          TEXT NOT NULL,
    description     TEXT NOT NULL,
    source          TEXT,
    image_name      TEXT,
    rebuild         INTEGER NOT NULL DEFAULT 0,
    release         INTEGER,
    cause           TEXT,
    created_by      TEXT,
    created_at      INTEGER NOT NULL,
    finished_at     INTEGER,
    idempotency_key TEXT,
    request_hash    BLOB
) STRICT;

CREATE INDEX deployments_of_app ON deployments (app_id, created_at);
CREATE INDEX deployments_unfinished ON deployments (status) WHERE finished_at IS NULL;
CREATE UNIQUE INDEX deployments_by_key ON deployments (app_id, idempotency_key)
    WHERE idempotency_key IS NOT NULL;

CREATE TABLE deployment_events (
    deployment_id TEXT NOT NULL REFERENCES deployments (id) ON DELETE CASCADE,
    number        INTEGER NOT NULL,
    at            INTEGER NOT NULL,
    body          TEXT NOT NULL,
    PRIMARY KEY (deployment_id, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE tokens (
    id           TEXT PRIMARY KEY,
    name         TEXT NOT NULL,
    hash         BLOB NOT NULL UNIQUE,
    scope        TEXT NOT NULL,
    app_id       INTEGER REFERENCES apps (id) ON DELETE CASCADE,
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER,
    last_used_at INTEGER,
    revoked_at   INTEGER
) STRICT;
