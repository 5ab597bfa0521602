//! The MQTT session, cloud profiles, codecs and bootstrap providers.
