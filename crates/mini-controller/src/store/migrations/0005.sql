-- Accounts at certificate authorities, by their directory. The credentials are sealed: see the vault.
CREATE TABLE acme_accounts (
    directory   TEXT PRIMARY KEY,
    email       TEXT,
    credentials BLOB NOT NULL,
    created_at  INTEGER NOT NULL
) STRICT;

-- What the proxy serves with. An ordered one has one name, and its authority's directory; an own
-- one has those that are in it, and goes with its app where it belongs to one.
CREATE TABLE certificates (
    id           TEXT PRIMARY KEY,
    source       TEXT NOT NULL CHECK (source IN ('acme', 'own')),
    names        TEXT NOT NULL,
    app_id       INTEGER REFERENCES apps (id) ON DELETE CASCADE,
    directory    TEXT,
    chain        TEXT NOT NULL,
    -- Sealed.
    key          BLOB NOT NULL,
    created_at   INTEGER NOT NULL,
    not_before   INTEGER NOT NULL,
    not_after    INTEGER NOT NULL,
    -- When it is to be renewed; inside the window that the authority suggested, if it did.
    renew_at     INTEGER,
    window_start INTEGER,
    window_end   INTEGER,
    -- When the authority is asked for its suggestion again.
    check_at     INTEGER
) STRICT;

-- Names whose last order failed.
CREATE TABLE certificate_trials (
    name     TEXT PRIMARY KEY,
    attempts INTEGER NOT NULL,
    error    TEXT NOT NULL,
    -- It was refused for a limit of the authority's, which says until when.
    limited  INTEGER NOT NULL,
    tried_at INTEGER NOT NULL,
    next_at  INTEGER NOT NULL
) STRICT;

-- What happened, the last few of each name.
CREATE TABLE certificate_events (
    number INTEGER PRIMARY KEY,
    name   TEXT NOT NULL,
    at     INTEGER NOT NULL,
    text   TEXT NOT NULL
) STRICT;

CREATE INDEX certificate_events_by_name ON certificate_events (name, number);
