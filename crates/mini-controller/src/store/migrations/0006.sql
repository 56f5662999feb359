-- A domain is a host name, or `*.` before one.
ALTER TABLE domains ADD COLUMN created_at INTEGER NOT NULL DEFAULT 0;
CREATE INDEX domains_of_app ON domains (app_id);

-- Whether every request is answered with the maintenance page.
ALTER TABLE apps ADD COLUMN maintenance INTEGER NOT NULL DEFAULT 0;

-- An app's own error pages; `*` is for every code that has none.
CREATE TABLE pages (
    app_id INTEGER NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    code   TEXT NOT NULL,
    html   TEXT NOT NULL,
    PRIMARY KEY (app_id, code)
) STRICT;
