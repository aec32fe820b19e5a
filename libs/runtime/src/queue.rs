//! The end of a task that answers requests from a queue.

use tokio::sync::mpsc;

/// Closes the queue and lets go of everything that was sent, so that every caller that waits for an answer learns that
/// nobody is there.
///
/// Dropping the receiver is not enough: what is sent in that very moment stays in the queue for as long as a sender
/// lives, and a caller that holds a sender while it waits for its answer would wait for ever. This returns when no request
/// can come any more.
pub async fn refuse_rest<T>(mut requests: mpsc::Receiver<T>) {
    requests.close();
    while requests.recv().await.is_some() {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn what_was_sent_late_is_let_go() {
        let (sender, requests) = mpsc::channel::<oneshot::Sender<()>>(1);
        // A place in the queue taken before the end, and used after it.
        let place = sender.reserve().await.unwrap();
        let mut end = std::pin::pin!(refuse_rest(requests));
        assert!(futures_util::poll!(&mut end).is_pending(), "it did not wait for the place that is taken");
        let (answer, answered) = oneshot::channel();
        place.send(answer);
        end.await;
        assert!(answered.await.is_err());
        assert!(sender.is_closed());
    }
}
