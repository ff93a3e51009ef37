#include "tap.h"
void test_environment(const char *self)
{
    (void)self;
}
