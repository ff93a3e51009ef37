/** VMBus: channel messages, offers, rings, packets. */
export * from './channel-message';
export * from './guid';
export * from './offer';
export * from './packet';
export * from './ring';
export * from './version';
