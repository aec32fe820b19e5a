UPDATE schema_compat SET lowest_writer = 1;
