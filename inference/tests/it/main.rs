//! The room from outside: bundles on disk, models that run and models that do not, whole series.

#![allow(clippy::unwrap_used)] // a test that cannot go on says where

mod builtin;
mod bundle;
mod detector;
mod fixture;
mod forecast;
mod monitor;
mod nab;
mod pump;
mod skab;
mod zoo;
