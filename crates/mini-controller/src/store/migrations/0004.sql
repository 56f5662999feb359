-- When a token was first seen over plain http from another machine: who sat between may know it.
ALTER TABLE tokens ADD COLUMN seen_over_http_at INTEGER;
