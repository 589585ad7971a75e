-- One finalised feature space: immutable, written in one go from shards and swapped in whole.
-- No keys, no indexes: sorted tables with their row groups' minima and maxima are faster and ten times smaller.

-- What the file is. One row.
CREATE TABLE space (
    name            VARCHAR NOT NULL,
    fingerprint     VARCHAR NOT NULL,
    format          INTEGER NOT NULL,
    n_features      INTEGER NOT NULL,
    keep            INTEGER             -- how many of its strongest images are kept of each feature; NULL: all
);

-- The images it covers, those without any active feature included.
CREATE TABLE space_images (
    image_id        INTEGER NOT NULL
);

-- One row per image and feature; for patch spaces the maximum over tokens and the token that reached it.
-- Sorted by feature, value descending, image.
CREATE TABLE activations (
    image_id        INTEGER NOT NULL,
    feature_id      INTEGER NOT NULL,
    value           FLOAT   NOT NULL,
    token           USMALLINT
);

-- Patch spaces only, else empty. Sorted by feature, image, token.
CREATE TABLE token_activations (
    image_id        INTEGER NOT NULL,
    token           USMALLINT NOT NULL,
    feature_id      INTEGER NOT NULL,
    value           FLOAT   NOT NULL
);

-- The leading features of each image (at most 64), in image order. rank 0 is the strongest. Empty in spaces that keep
-- the strongest images only.
CREATE TABLE image_top_features (
    image_id        INTEGER NOT NULL,
    rank            TINYINT NOT NULL,
    feature_id      INTEGER NOT NULL,
    value           FLOAT   NOT NULL
);

-- One row per feature, features that are never active included.
CREATE TABLE feature_stats (
    feature_id      INTEGER NOT NULL,
    n_active        INTEGER NOT NULL,   -- images on which it is active
    frequency       DOUBLE  NOT NULL,   -- n_active / images of the space
    mean_active     DOUBLE,             -- mean value over the images on which it is active; NULL when never
    std_active      DOUBLE,             -- their sample standard deviation; NULL below two
    max_value       FLOAT,
    sum_value       DOUBLE  NOT NULL,
    sum_squares     DOUBLE  NOT NULL,
    n_tokens        BIGINT              -- patch spaces: tokens on which it is active; else NULL
);

-- Spaces that keep the strongest images only, else empty: on how many images each feature's value (as in `activations`)
-- lies in which bin. Bin 0 is 0, where the feature is silent; bins are the same for all features and spaces
-- (warehouse/histograms.py), so that counts add up. Bins without an image are not listed. Sorted by feature, bin.
CREATE TABLE feature_histograms (
    feature_id      INTEGER NOT NULL,
    bin             SMALLINT NOT NULL,
    lower           FLOAT   NOT NULL,   -- the smallest value in the bin
    upper           FLOAT   NOT NULL,   -- what lies above all values in it; of bin 0: 0
    n_images        BIGINT  NOT NULL
);
