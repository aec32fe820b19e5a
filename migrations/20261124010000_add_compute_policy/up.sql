-- An expand step: a build that does not know the column leaves it alone, and a row it makes gets no policy.
ALTER TABLE computes ADD COLUMN IF NOT EXISTS policy jsonb NOT NULL DEFAULT '{}'
    CONSTRAINT computes_policy_object CHECK (jsonb_typeof(policy) = 'object');
COMMENT ON COLUMN computes.policy IS 'How far the leader may go with this compute by itself; an absent field has its default.';
