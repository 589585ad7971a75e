-- The edges of a space by one rule, those first that count for the forest.
FROM hierarchy WHERE space = $space AND rule = $rule
ORDER BY feature_id, is_tree_edge DESC, is_direct DESC, parent_feature_id
