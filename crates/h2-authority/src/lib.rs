//! Lets an HTTP/2 server on a unix socket accept clients whose `:authority` is no authority.
//!
//! There is no host name on a unix socket, so gRPC clients differ in what they put into
//! `:authority`: grpc-go and tonic say `localhost`, C-core (Python, C++, Ruby, PHP) the
//! percent-encoded path of the socket, Java the raw path. The last two are not valid by RFC 3986,
//! and `h2` resets such a request before any handler sees it.
//!
//! [`AuthorityStream`] wraps the accepted connection. It reads what the client sends, decodes each
//! header block, writes it anew as plain literals, and puts `localhost` where `:authority` is not
//! a valid [`http::uri::Authority`]. All else, and everything the server writes, passes as it is.
//!
//! ```
//! # async fn accept(listener: tokio::net::UnixListener) -> std::io::Result<()> {
//! let (socket, _) = listener.accept().await?;
//! let stream = taskmint_h2_authority::AuthorityStream::new(socket);
//! // hand `stream` to hyper or tonic; `stream.get_ref()` still answers for the peer
//! # drop(stream); Ok(())
//! # }
//! ```
//!
//! # What is refused
//!
//! A client that breaks a rule of header blocks, or one of the bounds below, ends its own
//! connection: reading fails with [`std::io::ErrorKind::InvalidData`] and a [`Violation`] as the
//! source, after all that came before has been delivered. Frames that carry no header block are
//! not judged here; the server does that. A connection that does not begin with the HTTP/2
//! preface is passed through untouched.
//!
//! # HPACK state
//!
//! The decoder of this adapter takes the place of the server's: its dynamic table follows the
//! client, while the server only ever sees literals that touch no table. The table may be as large
//! as [`MAX_TABLE`], the default of `SETTINGS_HEADER_TABLE_SIZE`; a server behind this adapter must
//! not announce more (neither hyper nor tonic does).

mod block;
mod frame;
mod rewriter;
mod stream;
mod violation;

#[cfg(test)]
mod tests;

pub use self::block::{MAX_FIELDS, MAX_LIST, MAX_TABLE, PLACEHOLDER};
pub use self::frame::MAX_FRAME;
pub use self::rewriter::{MAX_BLOCK, MAX_CONTINUATIONS};
pub use self::stream::AuthorityStream;
pub use self::violation::Violation;
