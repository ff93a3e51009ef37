/**
 * What the trap module keeps in the partition cannot be as it is: a lock that nobody gives back, an address that is not
 * RAM. The guest has taken the module over (a kernel at ring 1 can write it), or the module is broken. The dispatcher
 * crashes the domain.
 */
export class ImpossibleState extends Error {
  override readonly name = 'ImpossibleState';
}
