//! Cuts a stream of lines into pieces that fit into one request. Pure but for the clock; used by `apply`.

use std::time::Duration;

use axum::body::Bytes;
use futures_util::{Stream, StreamExt};

/// Lines of a piece.
const LINES: usize = 256;
/// Bytes of a piece, as soon as it has more than one line.
const BYTES: usize = 1 << 20;
/// Bytes of one line; with its piece it stays below what a request may have.
const LINE_BYTES: usize = (3 << 20) - 1024;
/// When nothing more comes for this long, what is there goes.
const QUIET: Duration = Duration::from_millis(20);

/// Some lines, with their numbers in the whole stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Piece {
    /// The lines, without their ends; empty ones are left out.
    pub(super) lines: Vec<(u64, Bytes)>,
    /// Lines that were thrown away because of their length.
    pub(super) too_long: Vec<u64>,
    bytes: usize,
}

impl Piece {
    fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.too_long.is_empty()
    }

    fn is_full(&self) -> bool {
        self.lines.len() + self.too_long.len() >= LINES || self.bytes >= BYTES
    }
}

/// The stream being cut.
pub(super) struct Pieces<S> {
    input: S,
    buffer: Vec<u8>,
    /// Bytes of the buffer that were searched for an end of line.
    searched: usize,
    number: u64,
    skipping: bool,
    ended: bool,
}

impl<S, E> Pieces<S>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
{
    /// The whole stream, from its first line.
    pub(super) fn of(input: S) -> Self {
        Self { input, buffer: Vec::new(), searched: 0, number: 0, skipping: false, ended: false }
    }

    /// The next piece; none at the end. A client that goes away in the middle of a line has not sent that line.
    pub(super) async fn next(&mut self) -> Option<Piece> {
        let mut piece = Piece::default();
        loop {
            while let Some(line) = self.line() {
                self.put(line, &mut piece);
                if piece.is_full() {
                    return Some(piece);
                }
            }
            if self.ended {
                return (!piece.is_empty()).then_some(piece);
            }
            let chunk = if piece.is_empty() {
                self.input.next().await
            } else {
                match tokio::time::timeout(QUIET, self.input.next()).await {
                    Ok(chunk) => chunk,
                    Err(_) => return Some(piece),
                }
            };
            match chunk {
                Some(Ok(chunk)) => self.take(&chunk),
                Some(Err(_)) => (self.ended, self.buffer, self.searched) = (true, Vec::new(), 0),
                None => {
                    self.ended = true;
                    // The last line may lack its end.
                    if !self.buffer.is_empty() {
                        self.buffer.push(b'\n');
                    }
                }
            }
        }
    }

    fn take(&mut self, chunk: &[u8]) {
        self.buffer.extend_from_slice(chunk);
        if self.buffer.len() > LINE_BYTES && !self.buffer.contains(&b'\n') {
            // Its rest is thrown away as it comes, up to its end.
            self.skipping = true;
            (self.buffer, self.searched) = (Vec::new(), 0);
        }
    }

    fn line(&mut self) -> Option<Vec<u8>> {
        let found = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n');
        let Some(at) = found else {
            self.searched = self.buffer.len();
            return None;
        };
        let mut line: Vec<u8> = self.buffer.drain(..=self.searched + at).collect();
        self.searched = 0;
        line.pop();
        Some(line)
    }

    fn put(&mut self, line: Vec<u8>, piece: &mut Piece) {
        self.number += 1;
        if std::mem::take(&mut self.skipping) || line.len() > LINE_BYTES {
            piece.too_long.push(self.number);
        } else if !line.trim_ascii().is_empty() {
            piece.bytes += line.len();
            piece.lines.push((self.number, Bytes::from(line)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream;

    use super::*;

    async fn cut(chunks: Vec<Vec<u8>>) -> Vec<Piece> {
        let chunks = chunks.into_iter().map(|chunk| Ok::<_, Infallible>(Bytes::from(chunk)));
        let mut pieces = Pieces::of(stream::iter(chunks));
        let mut all = Vec::new();
        while let Some(piece) = pieces.next().await {
            all.push(piece);
        }
        all
    }

    fn numbers(piece: &Piece) -> Vec<u64> {
        piece.lines.iter().map(|(number, _)| *number).collect()
    }

    #[tokio::test]
    async fn lines_keep_their_numbers_wherever_the_chunks_end() {
        let pieces = cut(vec![b"a\n\n b".to_vec(), b"c\r\n".to_vec(), b"d".to_vec()]).await;
        assert_eq!(pieces.len(), 1);
        let lines = [(1, Bytes::from("a")), (3, Bytes::from(" bc\r")), (4, Bytes::from("d"))];
        assert_eq!(pieces[0].lines, lines);
        assert!(cut(vec![]).await.is_empty());
        assert!(cut(vec![b"\n\n".to_vec()]).await.is_empty());
    }

    #[tokio::test]
    async fn pieces_have_their_size() {
        let pieces = cut(vec!["x\n".repeat(600).into_bytes()]).await;
        assert_eq!(pieces.iter().map(|piece| piece.lines.len()).collect::<Vec<_>>(), [256, 256, 88]);
        assert_eq!(numbers(&pieces[2]).last(), Some(&600));
        let big = [vec![b'x'; 700 << 10], b"\n".to_vec()].concat();
        let pieces = cut(vec![big.repeat(3)]).await;
        assert_eq!(pieces.iter().map(|piece| piece.lines.len()).collect::<Vec<_>>(), [2, 1]);
    }

    #[tokio::test]
    async fn a_line_without_an_end_takes_no_memory() {
        let mut chunks = vec![b"first\n".to_vec()];
        chunks.extend((0..9).map(|_| vec![b'x'; 1 << 20]));
        chunks.push(b"xx\nlast\n".to_vec());
        let pieces = cut(chunks).await;
        let lines: Vec<u64> = pieces.iter().flat_map(numbers).collect();
        let too_long: Vec<u64> = pieces.iter().flat_map(|piece| piece.too_long.clone()).collect();
        assert_eq!((lines, too_long), (vec![1, 3], vec![2]));
    }

    #[tokio::test]
    async fn what_is_there_does_not_wait_for_more() {
        let first = stream::iter([Ok::<_, Infallible>(Bytes::from("a\nb"))]);
        let mut pieces = Pieces::of(first.chain(stream::pending()));
        let piece = tokio::time::timeout(Duration::from_secs(5), pieces.next()).await.unwrap().unwrap();
        assert_eq!(numbers(&piece), [1]);
    }
}
