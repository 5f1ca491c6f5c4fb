//! A rough way to a server: a proxy of octets that delays, holds back, cuts off, doubles and swaps
//! what passes, as its mood is.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use taskmint_model::{Clock as _, Entropy, SystemClock, Timestamp};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// The most that passes at once.
const CHUNK: usize = 16 << 10;

/// How late a delayed chunk is at most.
const LATE: Duration = Duration::from_millis(150);

/// Of so many chunks one is doubled, or swapped: some get as far as to be believed.
const ONE_OF: f64 = 4.0;

/// What becomes of the octets that pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// They pass.
    Pass,
    /// Each chunk of them is late.
    Delay,
    /// They wait until the mood is another. Nothing that is sent meanwhile arrives.
    Freeze,
    /// Connections are reset.
    Cut,
    /// Some chunks come twice.
    Double,
    /// Some chunks come with their halves swapped.
    Swap,
}

/// How often what was done, on all ways that share it.
#[derive(Default)]
pub(crate) struct Harm([AtomicU64; Mood::ALL.len()]);

/// A proxy in front of an address. Its connections are over when it is dropped.
#[derive(Debug)]
pub(crate) struct Rough {
    pub(crate) address: SocketAddr,
    mood: Arc<watch::Sender<Mood>>,
    /// Milliseconds since 1970; 0 if it is not frozen.
    frozen: AtomicU64,
    listens: JoinHandle<()>,
}

/// What its connections share.
struct Wire {
    to: SocketAddr,
    mood: Arc<watch::Sender<Mood>>,
    harm: Arc<Harm>,
    dice: Arc<dyn Entropy>,
}

impl Mood {
    pub(crate) const ALL: [Self; 6] = [
        Self::Pass,
        Self::Delay,
        Self::Freeze,
        Self::Cut,
        Self::Double,
        Self::Swap,
    ];
}

impl Harm {
    /// How often a mood did what it does: once for each connection that is made or cut, else for
    /// each chunk.
    pub(crate) fn of(&self, mood: Mood) -> u64 {
        self.0[mood as usize].load(Ordering::Relaxed)
    }

    fn count(&self, mood: Mood) {
        self.0[mood as usize].fetch_add(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Harm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = Mood::ALL.map(|mood| (mood, self.of(mood)));
        f.debug_map().entries(counts).finish()
    }
}

impl Rough {
    /// One on a port of its own, that lets everything pass.
    pub(crate) async fn start(to: SocketAddr, harm: Arc<Harm>, dice: Arc<dyn Entropy>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mood = Arc::new(watch::Sender::new(Mood::Pass));
        let wire = Wire {
            to,
            mood: Arc::clone(&mood),
            harm,
            dice,
        };
        Self {
            address,
            mood,
            frozen: AtomicU64::new(0),
            listens: tokio::spawn(Arc::new(wire).listen(listener)),
        }
    }

    pub(crate) fn set(&self, mood: Mood) {
        // Taken back before it thaws, and said only once it is frozen.
        self.frozen.store(0, Ordering::SeqCst);
        self.mood.send_replace(mood);
        if mood == Mood::Freeze {
            let now = SystemClock.now().millis();
            self.frozen.store(now, Ordering::SeqCst);
        }
    }

    /// Since when nothing that the other side says arrives, if it is so now.
    pub(crate) fn frozen_since(&self) -> Option<Timestamp> {
        let at = self.frozen.load(Ordering::SeqCst);
        (at > 0).then(|| Timestamp::from_millis(at))
    }
}

impl Drop for Rough {
    fn drop(&mut self) {
        self.listens.abort();
    }
}

impl Wire {
    async fn listen(self: Arc<Self>, listener: TcpListener) {
        let mut carried = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let (near, _) = accepted.unwrap();
                    self.harm.count(Mood::Pass);
                    carried.spawn(Arc::clone(&self).carry(near));
                }
                Some(_) = carried.join_next() => {}
            }
        }
    }

    /// Carries one connection. The end of one direction is the end of both.
    async fn carry(self: Arc<Self>, mut near: TcpStream) {
        let Ok(mut far) = TcpStream::connect(self.to).await else {
            return;
        };
        let (from_near, to_near) = near.split();
        let (from_far, to_far) = far.split();
        let is_cut = tokio::select! {
            _ = self.pass(from_near, to_far) => false,
            _ = self.pass(from_far, to_near) => false,
            () = self.cut() => true,
        };
        if is_cut {
            self.harm.count(Mood::Cut);
            near.set_zero_linger().ok();
            far.set_zero_linger().ok();
        }
    }

    async fn cut(&self) {
        let mut mood = self.mood.subscribe();
        mood.wait_for(|mood| *mood == Mood::Cut).await.ok();
    }

    async fn pass(&self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> io::Result<()> {
        let mut mood = self.mood.subscribe();
        let mut chunk = vec![0; CHUNK];
        loop {
            let length = from.read(&mut chunk).await?;
            if length == 0 {
                return Ok(());
            }
            let octets = &chunk[..length];
            // Looked at after the read: what was said in a freeze stays here.
            let now = *mood.borrow();
            let harms = match now {
                Mood::Pass | Mood::Cut => false,
                Mood::Delay | Mood::Freeze => true,
                Mood::Double | Mood::Swap => self.dice.fraction() * ONE_OF < 1.0,
            };
            if harms {
                self.harm.count(now);
            }
            match now {
                Mood::Delay => tokio::time::sleep(LATE.mul_f64(self.dice.fraction())).await,
                Mood::Freeze => drop(mood.wait_for(|mood| *mood != Mood::Freeze).await),
                _ => {}
            }
            let (one, two) = octets.split_at(length / 2);
            let pieces: &[&[u8]] = match now {
                Mood::Double if harms => &[octets, octets],
                Mood::Swap if harms => &[two, one],
                _ => &[octets],
            };
            for piece in pieces {
                to.write_all(piece).await?;
            }
        }
    }
}

#[tokio::test]
async fn what_is_frozen_arrives_later_and_what_is_cut_never() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = server.local_addr().unwrap();
    let harm = Arc::<Harm>::default();
    let dice = Arc::new(taskmint_testkit::SeededEntropy::new(1));
    let way = Rough::start(to, Arc::clone(&harm), dice).await;
    let mut near = TcpStream::connect(way.address).await.unwrap();
    let (mut far, _) = server.accept().await.unwrap();
    let mut octets = [0; 2];

    way.set(Mood::Freeze);
    assert!(way.frozen_since().is_some());
    near.write_all(b"ab").await.unwrap();
    while harm.of(Mood::Pass) == 0 {
        tokio::task::yield_now().await;
    }
    let early = tokio::time::timeout(Duration::from_millis(100), far.read(&mut octets));
    assert!(early.await.is_err(), "{octets:?}");
    way.set(Mood::Pass);
    assert_eq!(way.frozen_since(), None);
    far.read_exact(&mut octets).await.unwrap();
    assert_eq!((&octets, harm.of(Mood::Freeze)), (b"ab", 1));

    way.set(Mood::Cut);
    let cut = near.read(&mut octets).await.unwrap_err();
    assert_eq!(cut.kind(), io::ErrorKind::ConnectionReset);
    assert!(far.read(&mut octets).await.is_err());
}
