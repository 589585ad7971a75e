-- Table macros over the Python functions that the plugin `sql_functions` registers on a reading connection.
CREATE OR REPLACE TEMP MACRO concept_search(q, space := NULL, k := 20, min_images := 10, embedding := NULL) AS TABLE
SELECT h.hit_space AS space, h.id AS feature_id, h.score
FROM (SELECT unnest(_concept_search(q::VARCHAR, space::VARCHAR, k::BIGINT, min_images::BIGINT, embedding::VARCHAR)) AS h);

CREATE OR REPLACE TEMP MACRO concept_search_by_image(
    image, space := NULL, k := 20, min_images := 10, embedding := NULL
) AS TABLE
SELECT h.hit_space AS space, h.id AS feature_id, h.score
FROM (
    SELECT unnest(
        _concept_search_by_image(image::VARCHAR, space::VARCHAR, k::BIGINT, min_images::BIGINT, embedding::VARCHAR)
    ) AS h
);

CREATE OR REPLACE TEMP MACRO similar_features(space, id, k := 20, within := NULL, min_images := 10) AS TABLE
SELECT h.hit_space AS space, h.id AS feature_id, h.score
FROM (
    SELECT unnest(
        _similar_features(space::VARCHAR, id::BIGINT, k::BIGINT, within::VARCHAR, min_images::BIGINT)
    ) AS h
);

CREATE OR REPLACE TEMP MACRO image_search(image, k := 20, embedding := NULL) AS TABLE
SELECT h.id AS image_id, h.score
FROM (SELECT unnest(_image_search(image::VARCHAR, k::BIGINT, embedding::VARCHAR)) AS h);
