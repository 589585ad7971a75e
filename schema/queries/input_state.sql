-- The state of one input as it is now; a table that was never written has none.
SELECT state FROM input_states WHERE kind = $kind AND name = $name;
