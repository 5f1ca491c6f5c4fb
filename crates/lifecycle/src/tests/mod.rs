//! Tests of the rules: readable scripts, attacks by the number of their protocol line, random
//! scripts against what must always hold.

mod attacks;
mod begin;
mod lifetime;
mod random;
mod script;
mod world;
