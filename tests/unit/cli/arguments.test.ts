/** Arguments of commands, and their help. */
import { type CommandDecl, choiceOption, commandHelp, numberOption, parseArguments } from '../../../shim/cli/arguments';
import { declaration as runDeclaration } from '../../../shim/cli/run';
import { UsageError } from '../../../shim/errors';

const command: CommandDecl = {
  name: 'try',
  usage: '[FILE]',
  summary: 'Tries.',
  positionals: { min: 0, max: 1 },
  options: { 'some-value': { value: 'X', help: 'a value' }, flag: { help: 'a flag' } },
};

test('values, flags, positionals; the last of a repeated option', () => {
  const args = parseArguments(command, ['--some-value', 'a', 'file', '--flag', '--some-value=b']);
  expect(args.text('some-value')).toBe('b');
  expect(args.flag('flag')).toBe(true);
  expect(args.positionals).toEqual(['file']);
  expect(parseArguments(command, []).text('some-value')).toBeUndefined();
});

test.each([
  [
    ['--other'],
    "wrong arguments: found Unknown option '--other', wanted options as 'xenlighten try --help' lists them",
  ],
  [['--some-value'], /wrong arguments: found Option '--some-value <value>' argument missing, wanted/],
  [['--flag=x'], /wrong arguments: found Option '--flag' does not take an argument/],
  [['a', 'b'], 'wrong arguments: found "a" "b", wanted xenlighten try [FILE]'],
])('%o is an error of usage', (argv, message) => {
  expect(() => parseArguments(command, argv)).toThrow(UsageError);
  expect(() => parseArguments(command, argv)).toThrow(message);
});

test('numbers and choices', () => {
  expect(numberOption('n', '12', 1, 20)).toBe(12);
  for (const bad of ['', '0', '21', '-1', '1.5', '0x3', 'x']) {
    expect(() => numberOption('n', bad, 1, 20)).toThrow(
      /^--n: unusable value: found ".*", wanted a whole number from 1 to 20$/,
    );
  }
  expect(choiceOption('c', 'a', ['a', 'b'])).toBe('a');
  expect(() => choiceOption('c', 'z', ['a', 'b'])).toThrow('--c: unusable value: found "z", wanted a, b');
});

test('the help has every option and every exit status', () => {
  const help = commandHelp(runDeclaration);
  for (const name of Object.keys(runDeclaration.options)) expect(help).toContain(`--${name}`);
  for (const status of ['0 the guest', '1 wrong', '2 the host', '3 the guest', '4 --timeout', '130']) {
    expect(help).toContain(status);
  }
});
