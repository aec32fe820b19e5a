//! The tables as diesel sees them; a test compares this file with the database that the migrations make.

diesel::table! {
    cluster (only_row) {
        only_row -> Bool,
        cluster_id -> Uuid,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    leader (only_row) {
        only_row -> Bool,
        term -> BigInt,
        instance_id -> Uuid,
        address -> Text,
        renewals -> BigInt,
        lease_ms -> BigInt,
        started_at -> Timestamptz,
        renewed_at -> Timestamptz,
        released_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    leader_history (term) {
        term -> BigInt,
        instance_id -> Uuid,
        address -> Text,
        began -> Text,
        started_at -> Timestamptz,
        ended -> Nullable<Text>,
        ended_at -> Nullable<Timestamptz>,
        note -> Nullable<Text>,
        target_schema -> Text,
    }
}

diesel::table! {
    schema_compat (only_row) {
        only_row -> Bool,
        lowest_reader -> Integer,
        lowest_writer -> Integer,
    }
}

diesel::table! {
    change_cursor (only_row) {
        only_row -> Bool,
        last_change -> BigInt,
    }
}

diesel::table! {
    retention (only_row) {
        only_row -> Bool,
        journal_pruned -> BigInt,
        tombstones_pruned -> BigInt,
    }
}

diesel::table! {
    computes (compute_id) {
        compute_id -> Text,
        agent_url -> Text,
        labels -> Jsonb,
        generation -> BigInt,
        spec -> Nullable<Jsonb>,
        spec_hash -> Nullable<Text>,
        change_seq -> BigInt,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
        deleted_at -> Nullable<Timestamptz>,
        policy -> Jsonb,
    }
}

diesel::table! {
    observed (compute_id) {
        compute_id -> Text,
        state -> Text,
        #[sql_name = "observed"]
        body -> Jsonb,
        change_seq -> BigInt,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    journal (at, change_seq) {
        at -> Timestamptz,
        change_seq -> BigInt,
        compute_id -> Nullable<Text>,
        term -> BigInt,
        kind -> Text,
        actor -> Text,
        reason -> Nullable<Text>,
        detail -> Jsonb,
    }
}

diesel::table! {
    rollouts (rollout_id) {
        rollout_id -> Text,
        request -> Jsonb,
        plan -> Jsonb,
        phase -> Text,
        resumes -> Nullable<Text>,
        halted -> Nullable<Text>,
        wave -> Integer,
        started_by -> Text,
        reason -> Nullable<Text>,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
        ended_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    rollout_computes (rollout_id, ordinal) {
        rollout_id -> Text,
        ordinal -> Integer,
        compute_id -> Text,
        phase -> Text,
        previous_generation -> Nullable<BigInt>,
        previous_spec -> Nullable<Jsonb>,
        previous_hash -> Nullable<Text>,
        generation -> Nullable<BigInt>,
        spec_hash -> Nullable<Text>,
        restored_generation -> Nullable<BigInt>,
        error -> Nullable<Text>,
        updated_at -> Timestamptz,
    }
}
