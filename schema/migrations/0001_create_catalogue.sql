-- Images. image_id is dense from 0; identity is the SHA-256 of the file's bytes.
CREATE TABLE images (
    image_id     INTEGER PRIMARY KEY,
    sha256       VARCHAR NOT NULL UNIQUE,
    path         VARCHAR NOT NULL,   -- the first path it was seen under; relative paths start at the warehouse
    width        INTEGER NOT NULL,   -- pixels, after EXIF rotation
    height       INTEGER NOT NULL,
    format       VARCHAR NOT NULL,   -- as Pillow read it, whatever the extension says
    mode         VARCHAR NOT NULL,   -- Pillow's mode before conversion to RGB
    byte_count   BIGINT  NOT NULL,
    brightness   FLOAT   NOT NULL,   -- mean luma, 0..1
    saturation   FLOAT   NOT NULL,   -- mean HSV saturation, 0..1
    edge_energy  FLOAT   NOT NULL    -- mean magnitude of the luma gradient, 0..1
);

-- Every path under which an image was seen; bytes inside a tar are found by offset.
CREATE TABLE image_paths (
    path         VARCHAR PRIMARY KEY,
    image_id     INTEGER NOT NULL,
    container    VARCHAR,            -- a tar file, or NULL for a plain file or a URL
    byte_offset  BIGINT,
    byte_count   BIGINT,
    cached       VARCHAR,            -- for URLs: the local copy, relative to the warehouse
    source       VARCHAR NOT NULL    -- what was given to `add`
);

-- Files that could not be used, with the reason.
CREATE TABLE failures (
    path         VARCHAR NOT NULL,
    stage        VARCHAR NOT NULL,   -- add, extract
    reason       VARCHAR NOT NULL,
    source       VARCHAR NOT NULL
);

-- Rows of tables that found no image, or whose value could not be used, with the reason.
CREATE TABLE rejected_rows (
    kind         VARCHAR NOT NULL,   -- ratings, captions, annotations, labels, features, embeddings
    source       VARCHAR NOT NULL,
    row_number   BIGINT  NOT NULL,   -- 1-based, the header not counted
    key          VARCHAR NOT NULL,
    reason       VARCHAR NOT NULL
);

-- One line per file or folder given to `add` and `import`: what came of it.
CREATE TABLE intakes (
    source       VARCHAR NOT NULL,
    kind         VARCHAR NOT NULL,   -- images, ratings, captions, annotations, labels, features, embeddings
    n_rows       BIGINT  NOT NULL,
    n_used       BIGINT  NOT NULL,
    n_rejected   BIGINT  NOT NULL,
    n_missing    BIGINT  NOT NULL,   -- empty values, which are no error
    PRIMARY KEY (source, kind)
);

CREATE TABLE ratings (
    image_id     INTEGER NOT NULL,
    dimension    VARCHAR NOT NULL,
    rater        VARCHAR NOT NULL,   -- '' where the table names none
    value        DOUBLE  NOT NULL,
    source       VARCHAR NOT NULL
);

CREATE TABLE captions (
    image_id     INTEGER NOT NULL,
    caption      VARCHAR NOT NULL,
    source       VARCHAR NOT NULL
);

-- What is known about an image as a whole: classes, attributes, splits.
CREATE TABLE image_labels (
    image_id     INTEGER NOT NULL,
    attribute    VARCHAR NOT NULL,
    value        VARCHAR NOT NULL,
    source       VARCHAR NOT NULL
);

-- Objects, parts and regions; masks are COCO's compressed run-length encoding.
CREATE TABLE annotations (
    annotation_id BIGINT NOT NULL,   -- as in the source
    image_id     INTEGER NOT NULL,
    category     VARCHAR NOT NULL,
    supercategory VARCHAR,
    bbox_x       DOUBLE,             -- pixels, top left corner
    bbox_y       DOUBLE,
    bbox_width   DOUBLE,
    bbox_height  DOUBLE,
    area         DOUBLE,             -- pixels
    is_crowd     BOOLEAN NOT NULL,
    mask_height  INTEGER,
    mask_width   INTEGER,
    mask_rle     VARCHAR,
    attributes   JSON,               -- whatever else the source says of it
    source       VARCHAR NOT NULL
);

-- Feature spaces. The rows live in spaces/<name>.duckdb; this is the record of them.
CREATE TABLE spaces (
    name                VARCHAR PRIMARY KEY,
    fingerprint         VARCHAR NOT NULL,   -- of encoder, hook, token policy and SAE together
    encoder_spec        VARCHAR,            -- NULL for imported activations
    encoder_fingerprint VARCHAR,
    hook                VARCHAR,
    tokens              VARCHAR NOT NULL,   -- cls, patches, mean, max, sum, imported
    sae_spec            VARCHAR,
    sae_fingerprint     VARCHAR,
    n_features          INTEGER NOT NULL,
    grid_rows           INTEGER,            -- patch spaces only
    grid_columns        INTEGER,
    state               VARCHAR NOT NULL,   -- extracting, ready
    n_images            INTEGER NOT NULL,
    n_activations       BIGINT  NOT NULL,
    self_test           JSON,               -- explained variance, L0 and cosine of the SAE on the first batch
    created_at          TIMESTAMP NOT NULL, -- UTC
    finalised_at        TIMESTAMP
);

-- Image embeddings. The vectors live in vectors/ (LanceDB); this is the record of them.
CREATE TABLE embeddings (
    name                VARCHAR PRIMARY KEY,
    fingerprint         VARCHAR NOT NULL,
    encoder_spec        VARCHAR,
    encoder_fingerprint VARCHAR,
    width               INTEGER NOT NULL,
    state               VARCHAR NOT NULL,   -- extracting, ready
    n_images            INTEGER NOT NULL,
    created_at          TIMESTAMP NOT NULL,
    finalised_at        TIMESTAMP
);
