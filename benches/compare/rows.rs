//! What is measured.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::client::{self, Client, Dial};
use crate::contender::{self, Contender, Running};
use crate::figures::{cpu, memory, percentile};
use crate::server;

const MIB: f64 = 1024.0 * 1024.0;
/// Bytes of a large message.
const LARGE: u64 = 100_000_000;
/// Idle connections.
const IDLE: usize = 4_000;

/// A row of the table, of one figure or several.
pub struct Row {
    pub name: &'static str,
    pub figures: &'static [Figure],
    measure: fn(&Stage<'_>) -> Result<Vec<f64>, Error>,
    who: Who,
}

/// Who takes part in a row.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    /// All but hopend with warm connections, which is as hopend is once a handle is open.
    All,
    /// It as well.
    AllAndWarm,
    /// Only hopend can do it.
    Hopend,
}

pub struct Figure {
    pub name: &'static str,
    pub target: Target,
}

/// What hopend has to reach.
#[derive(Clone, Copy)]
pub enum Target {
    /// At most so much of the best (lowest) peer's.
    BelowPeer(f64),
    /// At least so much of the best (highest) peer's.
    AbovePeer(f64),
    /// At most so much of direct TLS, and with warm connections at most so much.
    BelowDirectAndWarm(f64, f64),
    /// At least so much of the best peer's and of direct TLS.
    AbovePeerAndDirect(f64, f64),
    /// At most this.
    AtMost(f64),
    /// Only shown.
    Shown,
}

pub type Error = Box<dyn std::error::Error>;

/// One contender, freshly started.
pub struct Stage<'s> {
    runtime: Runtime,
    running: Running,
    dial: Dial,
    folder: &'s Path,
}

impl Row {
    /// The row's figures for one contender, once.
    pub fn run(
        &self,
        contender: Contender,
        folder: &Path,
        server: &server::Process,
    ) -> Result<Option<Vec<f64>>, Error> {
        let takes_part = match contender {
            Contender::Hopend | Contender::Before => true,
            Contender::Warm => self.who == Who::AllAndWarm,
            _ => self.who != Who::Hopend,
        };
        if !takes_part {
            return Ok(None);
        }
        let running = contender.start(folder, server)?;
        let tls = match contender {
            Contender::Direct => Some(client::tls(folder)?),
            _ => None,
        };
        let stage = Stage {
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?,
            dial: Dial {
                address: running.address,
                tls,
            },
            running,
            folder,
        };
        (self.measure)(&stage)
            .map(Some)
            .map_err(|error| format!("{} with {}: {error}", self.name, contender.name()).into())
    }
}

pub fn all() -> &'static [Row] {
    const ALL: &[Row] = &[
        Row {
            name: "get 100 MB",
            figures: &[
                Figure {
                    name: "CPU s/GB",
                    target: Target::BelowPeer(0.6),
                },
                Figure {
                    name: "MB/s",
                    target: Target::AbovePeerAndDirect(1.3, 0.8),
                },
            ],
            measure: |stage| large(stage, false),
            who: Who::All,
        },
        Row {
            name: "put 100 MB",
            figures: &[
                Figure {
                    name: "CPU s/GB",
                    target: Target::BelowPeer(0.6),
                },
                Figure {
                    name: "MB/s",
                    target: Target::AbovePeerAndDirect(1.3, 0.8),
                },
            ],
            measure: |stage| large(stage, true),
            who: Who::All,
        },
        Row {
            name: "round trip of 16 bytes, 1 client",
            figures: &[
                Figure {
                    name: "p50 µs",
                    target: Target::BelowPeer(0.9),
                },
                Figure {
                    name: "CPU µs",
                    target: Target::BelowPeer(0.8),
                },
            ],
            measure: round_trips,
            who: Who::All,
        },
        Row {
            name: "round trips of 16 bytes, 64 clients",
            figures: &[
                Figure {
                    name: "per second",
                    target: Target::AbovePeer(1.3),
                },
                Figure {
                    name: "CPU µs",
                    target: Target::Shown,
                },
            ],
            measure: many_round_trips,
            who: Who::All,
        },
        Row {
            name: "idle connections, 4,000 logged in",
            figures: &[Figure {
                name: "KiB each",
                target: Target::AtMost(12.0),
            }],
            measure: idle_memory,
            who: Who::All,
        },
        Row {
            name: "burst of 2,000 × 100 KB",
            figures: &[
                Figure {
                    name: "MB before",
                    target: Target::Shown,
                },
                Figure {
                    name: "MB 10 s after",
                    target: Target::Shown,
                },
                Figure {
                    name: "after / before",
                    target: Target::AtMost(1.5),
                },
            ],
            measure: burst,
            who: Who::All,
        },
        Row {
            name: "keepalives, 4,000 idle connections, every 10 s",
            figures: &[
                Figure {
                    name: "% of a core",
                    target: Target::AtMost(2.0),
                },
                Figure {
                    name: "% in the busiest 0.1 s",
                    target: Target::Shown,
                },
            ],
            measure: keepalives,
            who: Who::Hopend,
        },
        Row {
            name: "hopen",
            figures: &[
                Figure {
                    name: "p50 µs",
                    target: Target::BelowDirectAndWarm(1.2, 0.5),
                },
                Figure {
                    name: "CPU µs",
                    target: Target::Shown,
                },
            ],
            measure: hopen,
            who: Who::AllAndWarm,
        },
        Row {
            name: "hopens, 4 at a time",
            figures: &[Figure {
                name: "per second",
                target: Target::AbovePeer(1.2),
            }],
            measure: hopens,
            who: Who::AllAndWarm,
        },
        Row {
            name: "64 small clients beside a 5 GB message",
            figures: &[
                Figure {
                    name: "p99 µs without",
                    target: Target::Shown,
                },
                Figure {
                    name: "p99 µs with",
                    target: Target::Shown,
                },
                Figure {
                    name: "with / without",
                    target: Target::AtMost(3.0),
                },
            ],
            measure: beside_a_giant,
            who: Who::All,
        },
        Row {
            name: "start to ready, 100 endpoints",
            figures: &[Figure {
                name: "ms",
                target: Target::AtMost(50.0),
            }],
            measure: |stage| {
                let took = contender::start_to_ready(stage.folder, 100)?;
                Ok(vec![took.as_secs_f64() * 1e3])
            },
            who: Who::Hopend,
        },
    ];
    ALL
}

impl Stage<'_> {
    fn cpu(&self) -> Duration {
        cpu(&self.running.processes())
    }

    fn memory(&self) -> f64 {
        memory(&self.running.processes())
    }

    async fn clients(&self, count: usize) -> std::io::Result<Vec<Client>> {
        let mut clients = Vec::with_capacity(count);
        // A few at a time: the row is about what they cost, not about how fast they come.
        while clients.len() < count {
            let mut opening = JoinSet::new();
            for _ in 0..(count - clients.len()).min(16) {
                let dial = self.dial.clone();
                opening.spawn(async move { Client::open(&dial).await });
            }
            while let Some(client) = opening.join_next().await {
                clients.push(client.map_err(std::io::Error::other)??);
            }
        }
        Ok(clients)
    }
}

fn large(stage: &Stage<'_>, put: bool) -> Result<Vec<f64>, Error> {
    const TIMES: u32 = 4;
    stage.runtime.block_on(async {
        let mut client = Client::open(&stage.dial).await?;
        client.get(LARGE / 10).await?;
        let (cpu, began) = (stage.cpu(), Instant::now());
        for _ in 0..TIMES {
            if put {
                client.put(LARGE).await?;
            } else {
                client.get(LARGE).await?;
            }
        }
        let (took, cpu) = (began.elapsed(), stage.cpu().saturating_sub(cpu));
        let gigabytes = f64::from(TIMES) * LARGE as f64 / 1e9;
        Ok(vec![
            cpu.as_secs_f64() / gigabytes,
            gigabytes * 1e3 / took.as_secs_f64(),
        ])
    })
}

fn round_trips(stage: &Stage<'_>) -> Result<Vec<f64>, Error> {
    const TIMES: usize = 5_000;
    stage.runtime.block_on(async {
        let mut client = Client::open(&stage.dial).await?;
        for _ in 0..200 {
            client.round_trip().await?;
        }
        let cpu = stage.cpu();
        let mut took = Vec::with_capacity(TIMES);
        for _ in 0..TIMES {
            let began = Instant::now();
            client.round_trip().await?;
            took.push(began.elapsed().as_secs_f64() * 1e6);
        }
        let cpu = stage.cpu().saturating_sub(cpu).as_secs_f64() * 1e6 / TIMES as f64;
        Ok(vec![percentile(&mut took, 0.5), cpu])
    })
}

fn many_round_trips(stage: &Stage<'_>) -> Result<Vec<f64>, Error> {
    const TIMES: usize = 1_000;
    stage.runtime.block_on(async {
        let clients = stage.clients(64).await?;
        let (cpu, began) = (stage.cpu(), Instant::now());
        let count = clients.len() * TIMES;
        let mut tasks = JoinSet::new();
        for mut client in clients {
            tasks.spawn(async move {
                for _ in 0..TIMES {
                    client.round_trip().await?;
                }
                Ok::<_, std::io::Error>(())
            });
        }
        while let Some(task) = tasks.join_next().await {
            task??;
        }
        let (took, cpu) = (
            began.elapsed().as_secs_f64(),
            stage.cpu().saturating_sub(cpu),
        );
        Ok(vec![
            count as f64 / took,
            cpu.as_secs_f64() * 1e6 / count as f64,
        ])
    })
}

fn idle_memory(stage: &Stage<'_>) -> Result<Vec<f64>, Error> {
    stage.runtime.block_on(async {
        let first = stage.clients(16).await?;
        let before = stage.memory();
        let clients = stage.clients(IDLE).await?;
        let each = (stage.memory() - before) / clients.len() as f64 / 1024.0;
        drop(first);
        Ok(vec![each])
    })
}

fn burst(stage: &Stage<'_>) -> Result<Vec<f64>, Error> {
    stage.runtime.block_on(async {
        let clients = stage.clients(2_000).await?;
        let before = stage.memory() / MIB;
        let mut tasks = JoinSet::new();
        for mut client in clients {
            tasks.spawn(async move {
                client.get(100_000).await?;
                Ok::<_, std::io::Error>(client)
            });
        }
        let mut clients = Vec::new();
        while let Some(task) = tasks.join_next().await {
            clients.push(task??);
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
        let after = stage.memory() / MIB;
        Ok(vec![before, after, after / before])
    })
}

fn keepalives(stage: &Stage<'_>) -> Result<Vec<f64>, Error> {
    const WINDOW: Duration = Duration::from_millis(100);
    const WINDOWS: usize = 200;
    stage.runtime.block_on(async {
        let clients = stage.clients(IDLE).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let (first, began) = (stage.cpu(), Instant::now());
        let mut last = first;
        let mut busiest: f64 = 0.0;
        for _ in 0..WINDOWS {
            tokio::time::sleep(WINDOW).await;
            let now = stage.cpu();
            busiest = busiest.max(now.saturating_sub(last).as_secs_f64() / WINDOW.as_secs_f64());
            last = now;
        }
        let share = last.saturating_sub(first).as_secs_f64() / began.elapsed().as_secs_f64();
        drop(clients);
        Ok(vec![share * 100.0, busiest * 100.0])
    })
}

fn hopen(stage: &Stage<'_>) -> Result<Vec<f64>, Error> {
    const TIMES: usize = 300;
    /// Handles are opened now and then; back to back is the next row.
    const PAUSE: Duration = Duration::from_millis(10);
    stage.runtime.block_on(async {
        for _ in 0..20 {
            Client::open(&stage.dial).await?;
            tokio::time::sleep(PAUSE).await;
        }
        let cpu = stage.cpu();
        let mut took = Vec::with_capacity(TIMES);
        for _ in 0..TIMES {
            let began = Instant::now();
            let client = Client::open(&stage.dial).await?;
            took.push(began.elapsed().as_secs_f64() * 1e6);
            drop(client);
            tokio::time::sleep(PAUSE).await;
        }
        let cpu = stage.cpu().saturating_sub(cpu).as_secs_f64() * 1e6 / TIMES as f64;
        Ok(vec![percentile(&mut took, 0.5), cpu])
    })
}

fn hopens(stage: &Stage<'_>) -> Result<Vec<f64>, Error> {
    const TIMES: usize = 250;
    stage.runtime.block_on(async {
        let began = Instant::now();
        let mut tasks = JoinSet::new();
        for _ in 0..4 {
            let dial = stage.dial.clone();
            tasks.spawn(async move {
                for _ in 0..TIMES {
                    Client::open(&dial).await?;
                }
                Ok::<_, std::io::Error>(())
            });
        }
        while let Some(task) = tasks.join_next().await {
            task??;
        }
        Ok(vec![(4 * TIMES) as f64 / began.elapsed().as_secs_f64()])
    })
}

fn beside_a_giant(stage: &Stage<'_>) -> Result<Vec<f64>, Error> {
    const GIANT: u64 = 5_000_000_000;
    stage.runtime.block_on(async {
        let mut clients = stage.clients(64).await?;
        let (alone, again) = small_p99(clients, tokio::time::sleep(Duration::from_secs(3))).await?;
        clients = again;
        let (done, giant_is_done) = tokio::sync::oneshot::channel::<()>();
        let dial = stage.dial.clone();
        let giant = std::thread::spawn(move || {
            let _done = done;
            get_once(&dial, GIANT)
        });
        let (beside, _) = small_p99(clients, async {
            giant_is_done.await.ok();
        })
        .await?;
        giant
            .join()
            .map_err(|_| "the large message's client panicked")??;
        Ok(vec![alone, beside, beside / alone])
    })
}

/// One client in a thread of its own, as users are: small clients beside it wait for the proxy and
/// the processor, not for its turn to end.
fn get_once(dial: &Dial, count: u64) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async { Client::open(dial).await?.get(count).await })
}

/// The p99 of clients that each ask a hundred times a second, for as long as `meanwhile` takes.
async fn small_p99(
    clients: Vec<Client>,
    meanwhile: impl Future<Output = ()>,
) -> Result<(f64, Vec<Client>), Error> {
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut tasks = JoinSet::new();
    for mut client in clients {
        let stopped = stopped.clone();
        tasks.spawn(async move {
            let mut took = Vec::new();
            let mut beat = tokio::time::interval(Duration::from_millis(10));
            while !*stopped.borrow() {
                beat.tick().await;
                let began = Instant::now();
                client.round_trip().await?;
                took.push(began.elapsed().as_secs_f64() * 1e6);
            }
            Ok::<_, std::io::Error>((took, client))
        });
    }
    meanwhile.await;
    stop.send_replace(true);
    let (mut took, mut clients) = (Vec::new(), Vec::new());
    while let Some(task) = tasks.join_next().await {
        let (times, client) = task??;
        took.extend(times);
        clients.push(client);
    }
    Ok((percentile(&mut took, 0.99), clients))
}
