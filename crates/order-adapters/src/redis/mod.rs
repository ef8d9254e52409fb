//! Redis: a stream of hints, channels of events between processes, and a stream of events
//! for systems outside.
//!
//! Owns the connections and the names in Redis; knows the ports of `order-core` and nothing
//! of stores, transports or workers. Redis is never the truth here: it may be restarted,
//! wiped or fail over at any moment.
//!
//! | Key or channel       | What                                                           |
//! |----------------------|----------------------------------------------------------------|
//! | `{prefix}:jobs`      | a stream of hints, `id` the order; group `workers`             |
//! | `{prefix}:order:{id}`| a channel with the events of an order                          |
//! | `{prefix}:user:{id}` | a channel with the events of a user                            |
//!
//! Works with Redis 6.2 and newer, one server or a primary with replicas behind one name.

mod connect;
mod events;
mod hints;
mod sink;
mod url;

pub use self::{
    events::{RedisEventConfig, RedisEventTransport},
    hints::{RedisHintConfig, RedisHintQueue},
    sink::RedisEventSink,
    url::{RedisStreamUrl, RedisUrl, RedisUrlError},
};
