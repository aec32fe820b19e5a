ALTER TABLE computes
    DROP CONSTRAINT IF EXISTS computes_id_form,
    DROP CONSTRAINT IF EXISTS computes_hash_form,
    ADD CONSTRAINT computes_id_form CHECK (compute_id ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$'),
    ADD CONSTRAINT computes_hash_form CHECK (spec_hash ~ '^[0-9a-f]{64}$');
