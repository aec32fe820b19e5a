//! A stream of where another member stands. Its end proves nothing, it only wakes.

use std::time::Duration;

use pgfleet_api::controller::FollowLine;
use reqwest::Response;

use crate::transport::Failure;

/// A line is below a kilobyte.
const LINE_LIMIT: usize = 64 << 10;

/// How a stream ended, or why there was none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FollowEnd {
    /// Nobody listens at that address.
    #[error("connection refused")]
    Refused,
    /// It closed, or the way to it broke.
    #[error("the stream ended")]
    Ended,
    /// It is open and says nothing: not even signs of life.
    #[error("no sign of life")]
    Silent,
    /// There is no such stream for us.
    #[error("answered {status}")]
    Rejected {
        /// What it answered instead.
        status: u16,
    },
    /// What came is no line of ours.
    #[error("unintelligible line")]
    Garbled,
}

impl From<Failure> for FollowEnd {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused => Self::Refused,
            Failure::Timeout => Self::Silent,
            Failure::NoConnection | Failure::Broken => Self::Ended,
            Failure::Garbled => Self::Garbled,
        }
    }
}

/// An open stream.
#[derive(Debug)]
pub struct Follow {
    response: Response,
    waiting: Vec<u8>,
}

impl Follow {
    pub(super) fn begin(response: Response) -> Result<Self, FollowEnd> {
        let status = response.status();
        if !status.is_success() {
            return Err(FollowEnd::Rejected { status: status.as_u16() });
        }
        Ok(Self { response, waiting: Vec::new() })
    }

    /// The next line; `silence` is how long there may be none. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`FollowEnd`]: the stream is over.
    pub async fn next(&mut self, silence: Duration) -> Result<FollowLine, FollowEnd> {
        loop {
            if let Some(end) = self.waiting.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.waiting.drain(..=end).collect();
                return serde_json::from_slice(&line).map_err(|_| FollowEnd::Garbled);
            }
            if self.waiting.len() > LINE_LIMIT {
                return Err(FollowEnd::Garbled);
            }
            match tokio::time::timeout(silence, self.response.chunk()).await {
                Err(_) => return Err(FollowEnd::Silent),
                Ok(Err(error)) => return Err(Failure::from(&error).into()),
                Ok(Ok(None)) => return Err(FollowEnd::Ended),
                Ok(Ok(Some(piece))) => self.waiting.extend_from_slice(&piece),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use pgfleet_api::InstanceId;
    use serde_json::json;

    use super::*;
    use crate::fake::{Fake, Reply};
    use crate::peer::{Identity, PeerClient};
    use crate::token::Source;

    const PATIENCE: Duration = Duration::from_millis(300);

    fn client() -> PeerClient {
        let identity = Identity { instance_id: InstanceId::generate(), address: "a".into(), version: "v".into() };
        PeerClient::new(identity, Source::Anonymous).unwrap()
    }

    #[tokio::test]
    async fn lines_come_one_by_one_and_the_end_is_told() {
        let line = |seq| {
            let line = json!({"instance_id": InstanceId::generate(), "role": "leader", "term": 1, "leader": null,
                "change_seq": seq});
            format!("{line}\n")
        };
        let fake = Fake::start(vec![Reply::text(200, &(line(1) + &line(2)))]).await;
        let mut stream = client().follow(&fake.url, PATIENCE).await.unwrap();
        for seq in [1, 2] {
            assert_eq!(stream.next(PATIENCE).await.unwrap().change_seq, seq);
        }
        assert_eq!(stream.next(PATIENCE).await.unwrap_err(), FollowEnd::Ended);
    }

    #[tokio::test]
    async fn the_ways_of_having_no_stream_are_told_apart() {
        let client = client();
        assert_eq!(client.follow(&Fake::refusing_url().await, PATIENCE).await.unwrap_err(), FollowEnd::Refused);
        let fake = Fake::start(vec![Reply::Silence]).await;
        assert_eq!(client.follow(&fake.url, PATIENCE).await.unwrap_err(), FollowEnd::Silent);
        let fake = Fake::start(vec![Reply::text(403, "{}")]).await;
        assert_eq!(client.follow(&fake.url, PATIENCE).await.unwrap_err(), FollowEnd::Rejected { status: 403 });
        let fake = Fake::start(vec![Reply::text(200, "{}\n")]).await;
        let mut stream = client.follow(&fake.url, PATIENCE).await.unwrap();
        assert_eq!(stream.next(PATIENCE).await.unwrap_err(), FollowEnd::Garbled);
    }
}
