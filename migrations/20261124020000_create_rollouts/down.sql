DROP TABLE IF EXISTS rollout_computes;
DROP TABLE IF EXISTS rollouts;
