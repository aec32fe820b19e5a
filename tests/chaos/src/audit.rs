//! What the database itself saw: a trigger writes down, in each transaction that changes a row of the fleet, whose session
//! it is and what the leader row says at that moment.
//!
//! Who calls it: [`crate::run`] installs it, [`crate::watchers`] reads it. It lies in a schema of its own that no product
//! knows. Rows are told in the order of their transactions, each once, and only when no transaction that could still add
//! an earlier one is open.

use pgfleet_api::{InstanceId, Term};
use pgfleet_harness::postgres::TestClient;
use pgfleet_history::Event;

use crate::recorder::Recorder;

/// The tables whose changes are written down; harmless when it is run again.
const INSTALL: &str = r"
    CREATE SCHEMA IF NOT EXISTS chaos_audit;
    CREATE TABLE IF NOT EXISTS chaos_audit.written (
        id bigserial PRIMARY KEY, tx xid8 NOT NULL DEFAULT pg_current_xact_id(), of_table text NOT NULL, writer text NOT NULL,
        leader uuid, term bigint, released boolean);
    CREATE OR REPLACE FUNCTION chaos_audit.note() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO chaos_audit.written (of_table, writer, leader, term, released)
        SELECT TG_ARGV[0], current_setting('application_name'), instance_id, term, released_at IS NOT NULL
        FROM public.leader;
        RETURN NULL;
    END $$;
    CREATE OR REPLACE TRIGGER chaos_note AFTER INSERT OR UPDATE OR DELETE ON public.computes
        FOR EACH ROW EXECUTE FUNCTION chaos_audit.note('computes');
    CREATE OR REPLACE TRIGGER chaos_note AFTER INSERT OR UPDATE OR DELETE ON public.observed
        FOR EACH ROW EXECUTE FUNCTION chaos_audit.note('observed');
    DROP TRIGGER IF EXISTS chaos_note ON public.journal;
    CREATE TRIGGER chaos_note AFTER INSERT OR UPDATE OR DELETE ON public.journal
        FOR EACH ROW EXECUTE FUNCTION chaos_audit.note('journal');
";

/// Puts the triggers on; the fleet's tables are there.
pub async fn install(client: &TestClient) {
    let done = client.batch_execute(INSTALL).await;
    done.unwrap_or_else(|error| panic!("the audit cannot be installed: {error:?}"));
}

/// What was told so far: everything of transactions below this one.
#[derive(Debug, Default)]
pub struct Audit {
    below: u64,
}

impl Audit {
    /// Tells what is new and settled.
    ///
    /// # Errors
    /// What PostgreSQL says; nothing was told then.
    pub async fn read(&mut self, client: &TestClient, recorder: &Recorder) -> Result<(), tokio_postgres::Error> {
        let settled = client.query_one("SELECT pg_snapshot_xmin(pg_current_snapshot())::text", &[]).await?;
        let settled: u64 = settled.get::<_, String>(0).parse().unwrap_or_default();
        // A database that was put back counts from its copy on.
        let from = self.below.min(settled);
        let sql = format!(
            "SELECT of_table, writer, leader, term, released FROM chaos_audit.written
             WHERE tx >= '{from}'::xid8 AND tx < '{settled}'::xid8 ORDER BY id"
        );
        for row in client.query(&sql, &[]).await? {
            recorder.record(Event::RowWritten {
                table: row.get(0),
                writer: row.get(1),
                leader: InstanceId(row.get(2)),
                term: Term(row.get(3)),
                released: row.get(4),
            });
        }
        self.below = settled;
        Ok(())
    }
}
