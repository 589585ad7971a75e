-- catalog.duckdb

annotations (
    annotation_id BIGINT NOT NULL
    image_id INTEGER NOT NULL
    category VARCHAR NOT NULL
    supercategory VARCHAR
    bbox_x DOUBLE
    bbox_y DOUBLE
    bbox_width DOUBLE
    bbox_height DOUBLE
    area DOUBLE
    is_crowd BOOLEAN NOT NULL
    mask_height INTEGER
    mask_width INTEGER
    mask_rle VARCHAR
    attributes JSON
    source VARCHAR NOT NULL
)

captions (
    image_id INTEGER NOT NULL
    caption VARCHAR NOT NULL
    source VARCHAR NOT NULL
)

embeddings (
    name VARCHAR NOT NULL
    fingerprint VARCHAR NOT NULL
    encoder_spec VARCHAR
    encoder_fingerprint VARCHAR
    width INTEGER NOT NULL
    state VARCHAR NOT NULL
    n_images INTEGER NOT NULL
    created_at TIMESTAMP NOT NULL
    finalised_at TIMESTAMP
    PRIMARY KEY("name")
)

failures (
    path VARCHAR NOT NULL
    stage VARCHAR NOT NULL
    reason VARCHAR NOT NULL
    source VARCHAR NOT NULL
)

image_labels (
    image_id INTEGER NOT NULL
    attribute VARCHAR NOT NULL
    value VARCHAR NOT NULL
    source VARCHAR NOT NULL
)

image_paths (
    path VARCHAR NOT NULL
    image_id INTEGER NOT NULL
    container VARCHAR
    byte_offset BIGINT
    byte_count BIGINT
    cached VARCHAR
    source VARCHAR NOT NULL
    PRIMARY KEY(path)
)

images (
    image_id INTEGER NOT NULL
    sha256 VARCHAR NOT NULL
    path VARCHAR NOT NULL
    width INTEGER NOT NULL
    height INTEGER NOT NULL
    format VARCHAR NOT NULL
    mode VARCHAR NOT NULL
    byte_count BIGINT NOT NULL
    brightness FLOAT NOT NULL
    saturation FLOAT NOT NULL
    edge_energy FLOAT NOT NULL
    PRIMARY KEY(image_id)
    UNIQUE(sha256)
)

intakes (
    source VARCHAR NOT NULL
    kind VARCHAR NOT NULL
    n_rows BIGINT NOT NULL
    n_used BIGINT NOT NULL
    n_rejected BIGINT NOT NULL
    n_missing BIGINT NOT NULL
    PRIMARY KEY("source", kind)
)

ratings (
    image_id INTEGER NOT NULL
    dimension VARCHAR NOT NULL
    rater VARCHAR NOT NULL
    value DOUBLE NOT NULL
    source VARCHAR NOT NULL
)

rejected_rows (
    kind VARCHAR NOT NULL
    source VARCHAR NOT NULL
    row_number BIGINT NOT NULL
    key VARCHAR NOT NULL
    reason VARCHAR NOT NULL
)

result_tables (
    analyzer VARCHAR NOT NULL
    columns JSON NOT NULL
    in_features JSON NOT NULL
    strongest VARCHAR
    is_incremental BOOLEAN NOT NULL
    PRIMARY KEY(analyzer)
)

revisions (
    name VARCHAR NOT NULL
    revision BIGINT NOT NULL
    PRIMARY KEY("name")
)

run_inputs (
    run_id INTEGER NOT NULL
    kind VARCHAR NOT NULL
    name VARCHAR NOT NULL
    state VARCHAR NOT NULL
)

runs (
    run_id INTEGER NOT NULL
    analyzer VARCHAR NOT NULL
    version VARCHAR NOT NULL
    space VARCHAR NOT NULL
    parameters JSON NOT NULL
    facets JSON NOT NULL
    seed BIGINT
    notes JSON NOT NULL
    n_rows BIGINT NOT NULL
    vectors VARCHAR
    started_at TIMESTAMP NOT NULL
    duration_s DOUBLE NOT NULL
    PRIMARY KEY(run_id)
)

schema_migrations (
    number INTEGER NOT NULL
    name VARCHAR NOT NULL
    applied_at TIMESTAMP NOT NULL
    PRIMARY KEY(number)
)

spaces (
    name VARCHAR NOT NULL
    fingerprint VARCHAR NOT NULL
    encoder_spec VARCHAR
    encoder_fingerprint VARCHAR
    hook VARCHAR
    tokens VARCHAR NOT NULL
    sae_spec VARCHAR
    sae_fingerprint VARCHAR
    n_features INTEGER NOT NULL
    grid_rows INTEGER
    grid_columns INTEGER
    state VARCHAR NOT NULL
    n_images INTEGER NOT NULL
    n_activations BIGINT NOT NULL
    self_test JSON
    created_at TIMESTAMP NOT NULL
    finalised_at TIMESTAMP
    framing JSON
    keep INTEGER
    PRIMARY KEY("name")
)

-- spaces/<space>.duckdb

activations (
    image_id INTEGER NOT NULL
    feature_id INTEGER NOT NULL
    value FLOAT NOT NULL
    token USMALLINT
)

feature_histograms (
    feature_id INTEGER NOT NULL
    bin SMALLINT NOT NULL
    lower FLOAT NOT NULL
    upper FLOAT NOT NULL
    n_images BIGINT NOT NULL
)

feature_stats (
    feature_id INTEGER NOT NULL
    n_active INTEGER NOT NULL
    frequency DOUBLE NOT NULL
    mean_active DOUBLE
    std_active DOUBLE
    max_value FLOAT
    sum_value DOUBLE NOT NULL
    sum_squares DOUBLE NOT NULL
    n_tokens BIGINT
)

image_top_features (
    image_id INTEGER NOT NULL
    rank TINYINT NOT NULL
    feature_id INTEGER NOT NULL
    value FLOAT NOT NULL
)

space (
    name VARCHAR NOT NULL
    fingerprint VARCHAR NOT NULL
    format INTEGER NOT NULL
    n_features INTEGER NOT NULL
    keep INTEGER
)

space_images (
    image_id INTEGER NOT NULL
)

token_activations (
    image_id INTEGER NOT NULL
    token USMALLINT NOT NULL
    feature_id INTEGER NOT NULL
    value FLOAT NOT NULL
)
