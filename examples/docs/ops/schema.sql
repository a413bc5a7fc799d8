-- The store of Fernpost 2.2, schema version 7 (SQLite).
--
-- The server creates and migrates it; this file is for those who want to read the store, with
-- sqlite3 -readonly, and never for writing to it behind the server's back. Times are integers:
-- milliseconds since 1970-01-01 UTC.

PRAGMA user_version = 7;
PRAGMA foreign_keys = ON;

-- Topics are made before they are used, since 2.0. A schema, if there is one, is JSON Schema.
CREATE TABLE topic (
    name        TEXT PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 120),
    json_schema TEXT,
    created_at  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- API keys. The key itself is not here: key_hash is its SHA-256.
CREATE TABLE api_key (
    id           TEXT PRIMARY KEY,
    key_hash     BLOB NOT NULL UNIQUE CHECK (length(key_hash) = 32),
    label        TEXT NOT NULL,
    scopes       TEXT NOT NULL,
    topics       TEXT NOT NULL DEFAULT '*',
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER,
    revoked_at   INTEGER,
    last_used_at INTEGER
) STRICT, WITHOUT ROWID;

-- secret and old_secret are encrypted with the key in /etc/fernpost/secret.key. The old one is
-- used beside the new one until old_secret_until, 24 hours after a rotation.
CREATE TABLE endpoint (
    id               TEXT PRIMARY KEY,
    url              TEXT NOT NULL,
    patterns         TEXT NOT NULL,
    group_name       TEXT,
    state            TEXT NOT NULL DEFAULT 'enabled'
                     CHECK (state IN ('enabled', 'paused', 'disabled')),
    paused_until     INTEGER,
    failures_in_row  INTEGER NOT NULL DEFAULT 0,
    max_in_flight    INTEGER NOT NULL DEFAULT 8 CHECK (max_in_flight > 0),
    secret           BLOB NOT NULL,
    old_secret       BLOB,
    old_secret_until INTEGER,
    created_at       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- An event is written once and never changed. sequence gives the order of arrival.
CREATE TABLE event (
    sequence        INTEGER PRIMARY KEY,
    id              TEXT NOT NULL UNIQUE,
    topic           TEXT NOT NULL REFERENCES topic (name),
    group_name      TEXT,
    payload         BLOB NOT NULL,
    occurred_at     INTEGER NOT NULL,
    received_at     INTEGER NOT NULL,
    idempotency_key TEXT,
    api_key         TEXT NOT NULL REFERENCES api_key (id)
) STRICT;

-- Idempotency keys belong to the API key that used them, and are cleared after 48 hours.
CREATE UNIQUE INDEX event_idempotency ON event (api_key, idempotency_key)
    WHERE idempotency_key IS NOT NULL;
CREATE INDEX event_by_topic ON event (topic, received_at);

CREATE TABLE delivery (
    id         INTEGER PRIMARY KEY,
    event      INTEGER NOT NULL REFERENCES event (sequence) ON DELETE CASCADE,
    endpoint   TEXT NOT NULL REFERENCES endpoint (id) ON DELETE CASCADE,
    state      TEXT NOT NULL
               CHECK (state IN ('pending', 'sending', 'waiting', 'delivered', 'dead')),
    attempts   INTEGER NOT NULL DEFAULT 0,
    due_at     INTEGER NOT NULL,
    settled_at INTEGER,
    UNIQUE (event, endpoint)
) STRICT;

-- Workers ask for what is due, and for nothing else. The partial index stays small whatever the
-- number of delivered events; without it a queue of a million made each poll take 400 ms.
CREATE INDEX delivery_due ON delivery (due_at) WHERE state IN ('pending', 'waiting');

CREATE TABLE attempt (
    delivery    INTEGER NOT NULL REFERENCES delivery (id) ON DELETE CASCADE,
    number      INTEGER NOT NULL CHECK (number >= 1),
    started_at  INTEGER NOT NULL,
    duration_ms INTEGER NOT NULL,
    outcome     TEXT NOT NULL
                CHECK (outcome IN ('ok', 'status', 'timeout', 'tls', 'dns', 'refused')),
    http_status INTEGER,
    response    BLOB CHECK (length(response) <= 2048),
    PRIMARY KEY (delivery, number)
) STRICT, WITHOUT ROWID;

-- How late is each endpoint? The view behind "fernpost top".
CREATE VIEW endpoint_backlog AS
SELECT
    endpoint.id,
    endpoint.url,
    count(delivery.id) AS open_deliveries,
    min(delivery.due_at) AS oldest_due_at
FROM endpoint
LEFT JOIN delivery
    ON delivery.endpoint = endpoint.id AND delivery.state IN ('pending', 'waiting')
GROUP BY endpoint.id;
